// What a user of the official Node client does: node openai_node.mjs BASE_URL KEY MODEL FAULTY_MODEL
// Prints one JSON object: check name -> what came out.
import OpenAI from "openai";

const [baseURL, apiKey, model, faulty] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, timeout: 60_000 });
const messages = [{ role: "user", content: "Say hello to the network." }];
const out = {};

out.models = [];
for await (const entry of client.models.list()) out.models.push(entry.id);

const { data: chat, response } = await client.chat.completions
  .create({ model, messages, max_tokens: 24 })
  .withResponse();
out.request_id = response.headers.get("x-request-id");
out.chat = chat.choices[0].message.content;
out.usage = chat.usage.completion_tokens;

let text = "", finish = null, usage = null;
const stream = await client.chat.completions.create({
  model, messages, max_tokens: 24, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  finish = chunk.choices[0]?.finish_reason ?? finish;
  usage = chunk.usage?.completion_tokens ?? usage;
}
out.stream = { text, finish, usage };

const called = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "Weather in Rome?" }],
  tools: [{ type: "function", function: { name: "weather", parameters: {
    type: "object", properties: { city: { type: "string" } }, required: ["city"] } } }],
  tool_choice: { type: "function", function: { name: "weather" } },
});
out.tool = called.choices[0].message.tool_calls[0].function.name;

const embedded = await client.embeddings.create({ model, input: ["one", "two"] });
out.embeddings = embedded.data.map((item) => item.embedding.length);

try {
  await client.chat.completions.create({ model: "no-such-model", messages });
} catch (error) {
  out.unknown = { status: error.status, code: error.code };
}
try {
  await new OpenAI({ baseURL, apiKey: "wrong" }).models.list();
} catch (error) {
  out.unauthorised = { status: error.status, code: error.code };
}
try {
  const broken = await client.chat.completions.create({ model: faulty, messages, max_tokens: 64, stream: true });
  for await (const _ of broken);
  out.midstream = "ended as if nothing had happened";
} catch (error) {
  out.midstream = error.code;
}
console.log(JSON.stringify(out));
