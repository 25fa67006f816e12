"""The object store on any S3-compatible server.

Parts and small objects are signed and sent by us (`sign`, `wire`); everything else goes through aiobotocore (`control`,
`door`), by clients that are all made alike (`clients`). `profiles` says what a server can do, `errors` what its answers
mean, `store` is the port.
"""

import os

# botocore looks when it is imported: with awscrt there (we use its checksums) it would sign with the CRT signer.
os.environ.setdefault("BOTO_DISABLE_CRT", "true")
