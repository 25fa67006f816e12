#!/bin/sh
# Makes the bucket and a key of the gateway's own that may touch nothing else. Safe to run again.
# Needs MC_HOST_store (URL with the root key), BUCKET, ACCESS_KEY and SECRET_KEY.
set -eu

mc --quiet mb --ignore-existing "store/$BUCKET"

policy=$(mktemp)
trap 'rm -f "$policy"' EXIT
cat > "$policy" <<POLICY
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
      "Resource": ["arn:aws:s3:::$BUCKET"]
    },
    {
      "Effect": "Allow",
      "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
      "Resource": ["arn:aws:s3:::$BUCKET/*"]
    }
  ]
}
POLICY

mc --quiet admin user add store "$ACCESS_KEY" "$SECRET_KEY"
mc --quiet admin policy create store tusgate "$policy"
# Attaching twice is an error to mc; that the policy is attached is all that counts.
mc --quiet admin policy attach store tusgate --user "$ACCESS_KEY" \
  || mc --quiet admin policy entities store --user "$ACCESS_KEY" | grep -q tusgate
