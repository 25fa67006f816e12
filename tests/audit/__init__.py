"""The auditor: reads what clients were told, the database, the bucket and the history of S3 calls, and names each
invariant that does not hold.

I12 (events) and I14 (quotas) have rules as soon as there is something to look at. I17 and I18 (downloads) are held by
tests of their own: nothing that a fault leaves behind says anything about them.
I15 (memory and descriptors) is a matter of time and load: the soak test watches it.
"""
