"""Who sends a request: static tokens, JWTs of issuers, upload tokens, and users that a trusted proxy names.

PyJWT and the fetching of keys live here and nowhere else. `authority` is the face to the rest.
"""
