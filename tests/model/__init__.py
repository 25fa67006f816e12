"""The service, held against a model so naive that it is surely right: each upload is the bytes that were committed."""
