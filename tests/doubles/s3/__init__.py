"""A strict S3 server in the process of the test: it believes nothing that it can check, and forgets on request.

`server` speaks HTTP; below it `bucket` has the rules of S3 without any I/O, `signature` and `checksums` verify,
`behaviour` says which vendor is imitated, `xml` writes and reads documents. The contract tests of the object store
run on it beside real servers: where they disagree, the double is wrong.

It offers only faults that happen inside a store (bytes that rot, uploads that are swept, a memory that a restart
empties). For refused, lost, late and damaged requests put an S3FaultProxy in front of it.
"""
