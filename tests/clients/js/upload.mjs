// Carries out the uploads that standard input lists, with the AWS SDK for JavaScript, and prints
// what became of each: a JSON list for a JSON list.
import { createReadStream, readFileSync } from "node:fs";
import { PassThrough } from "node:stream";
import { PutObjectCommand, S3Client } from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";

const { endpoint, region, credentials, uploads } = JSON.parse(readFileSync(0, "utf8"));

const ways = {
  async buffer(client, input, file) {
    return client.send(new PutObjectCommand({ ...input, Body: readFileSync(file) }));
  },
  async stream(client, input, file, size) {
    const body = { Body: createReadStream(file), ContentLength: size };
    return client.send(new PutObjectCommand({ ...input, ...body }));
  },
  async multipart(client, input, file) {
    return new Upload({ client, params: { ...input, Body: readFileSync(file) } }).done();
  },
  // A stream of which nobody knows how long it is.
  async endless(client, input, file) {
    const body = createReadStream(file).pipe(new PassThrough());
    return new Upload({ client, params: { ...input, Body: body } }).done();
  },
  async presigned(client, input, file) {
    return put(client, input, { body: readFileSync(file) });
  },
  // fetch sends a stream without Content-Length.
  async "presigned stream"(client, input, file) {
    return put(client, input, { body: createReadStream(file), duplex: "half" });
  },
};

// With a presigned URL, by fetch.
async function put(client, { Bucket, Key, ContentType, ChecksumAlgorithm }, body) {
  const command = new PutObjectCommand({ Bucket, Key, ContentType, ChecksumAlgorithm });
  const url = await getSignedUrl(client, command, { expiresIn: 300 });
  const headers = { "content-type": ContentType };
  const answer = await fetch(url, { method: "PUT", headers, ...body });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return { ETag: answer.headers.get("etag") };
}

async function upload({ way, input, file, size, calculation }) {
  const client = new S3Client({
    endpoint,
    region,
    credentials,
    forcePathStyle: true,
    maxAttempts: 1,
    requestChecksumCalculation: calculation,
  });
  try {
    const { ETag } = await ways[way](client, input, file, size);
    return { ETag };
  } catch (error) {
    return { error: `${error.name}: ${error.message}` };
  } finally {
    client.destroy();
  }
}

const results = [];
for (const one of uploads) results.push(await upload(one));
console.log(JSON.stringify(results));
