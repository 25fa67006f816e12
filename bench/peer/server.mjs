// The other tus server of the benchmark: @tus/server on the same bucket, with our part size.
// node server.mjs PORT ENDPOINT BUCKET, keys in ACCESS_KEY and SECRET_KEY.
import { createServer } from "node:http";
import { S3Store } from "@tus/s3-store";
import { Server } from "@tus/server";

const [port, endpoint, bucket] = process.argv.slice(2);
const datastore = new S3Store({
  partSize: 8 * 1024 * 1024,
  s3ClientConfig: {
    bucket,
    endpoint,
    region: "us-east-1",
    forcePathStyle: true,
    credentials: { accessKeyId: process.env.ACCESS_KEY, secretAccessKey: process.env.SECRET_KEY },
  },
});
const tus = new Server({ path: "/files", datastore });
createServer((request, response) => tus.handle(request, response)).listen(Number(port), "127.0.0.1");
