// One call of MSService/Predict as JSON on stdout: node call.mjs ENDPOINT CA|"" TOKEN|"" FILE...
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [endpoint, ca, token, ...files] = process.argv.slice(2);
const proto = new URL("../../../client/proto/ms_service.proto", import.meta.url).pathname;
const messages = loader.loadSync(proto, { keepCase: true, defaults: true, enums: String, longs: Number });
const { MSService } = grpc.loadPackageDefinition(messages).mindspore.serving.proto;
const credentials = ca ? grpc.credentials.createSsl(readFileSync(ca)) : grpc.credentials.createInsecure();
const limits = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };
const client = new MSService(endpoint, credentials, limits);
const metadata = new grpc.Metadata();
if (token) metadata.set("authorization", `Bearer ${token}`);
const image = (file) => ({ dtype: "MS_BYTES", shape: { dims: [1] }, bytes_val: [readFileSync(file)] });
const request = {
  servable_spec: { name: "metric_learn", method_name: "embed" },
  instances: files.map((file) => ({ items: { image: image(file) } })),
};
client.Predict(request, metadata, { deadline: Date.now() + 120_000 }, (error, reply) => {
  if (error) {
    const [retry_after_ms] = error.metadata.get("x-metric-learn-retry-after-ms");
    console.log(JSON.stringify({ code: grpc.status[error.code], message: error.details, retry_after_ms }));
  } else {
    const rows = reply.instances.map(({ items }) => items.embedding?.data.toString("base64") ?? null);
    console.log(JSON.stringify({ rows, errors: reply.error_msg.map((each) => each.error_msg.toString()) }));
  }
  client.close();
});
