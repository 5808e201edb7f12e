"""What a user of the official Python client does, run in that client's own environment.

``python openai_python.py BASE_URL KEY MODEL FAULTY_MODEL`` prints one JSON object: check name -> what came out.
"""

import json
import sys

import openai

base_url, key, model, faulty = sys.argv[1:5]
client = openai.OpenAI(base_url=base_url, api_key=key, timeout=60)
HELLO = [{"role": "user", "content": "Say hello to the network."}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
out: dict[str, object] = {}

out["models"] = [entry.id for entry in client.models.list()]
out["retrieve"] = client.models.retrieve(model).id

chat = client.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=24)
out["request_id"] = chat.headers.get("x-request-id")
out["peer"] = chat.headers.get("x-p2pnode-peer")
answer = chat.parse()
out["chat"] = answer.choices[0].message.content
out["finish"] = answer.choices[0].finish_reason
out["usage"] = answer.usage.completion_tokens

text, finish, usage, chunks = "", None, None, 0
with client.chat.completions.create(
    model=model, messages=HELLO, max_tokens=24, stream=True, stream_options={"include_usage": True}
) as stream:
    for chunk in stream:
        chunks += 1
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        if chunk.usage:
            usage = chunk.usage.completion_tokens
out["stream"] = {"text": text, "finish": finish, "usage": usage, "chunks": chunks}

called = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Weather in Rome?"}],
    tools=TOOLS,
    tool_choice={"type": "function", "function": {"name": "weather"}},
)
out["tool"] = called.choices[0].message.tool_calls[0].function.name
out["tool_arguments"] = json.loads(called.choices[0].message.tool_calls[0].function.arguments)

out["completion"] = client.completions.create(model=model, prompt="Once", max_tokens=8).choices[0].text
embedded = client.embeddings.create(model=model, input=["one", "two"])  # asks for base64 by itself
out["embeddings"] = [len(item.embedding) for item in embedded.data]
floats = client.embeddings.create(model=model, input="one", encoding_format="float")
pairs = zip(floats.data[0].embedding, embedded.data[0].embedding, strict=True)
out["same_embedding"] = all(abs(a - b) < 1e-6 for a, b in pairs)

try:
    client.chat.completions.create(model="no-such-model", messages=HELLO)
except openai.NotFoundError as error:
    out["unknown"] = {"code": error.code, "message": str(error.body["message"])}
try:
    openai.OpenAI(base_url=base_url, api_key="wrong").models.list()
except openai.AuthenticationError as error:
    out["unauthorised"] = error.code
try:
    client.chat.completions.create(model=model, messages="not a list")
except openai.BadRequestError as error:
    out["bad_request"] = error.type

partial = ""
try:
    for chunk in client.chat.completions.create(model=faulty, messages=HELLO, max_tokens=64, stream=True):
        partial += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    out["midstream"] = "ended as if nothing had happened"
except openai.APIError as error:
    out["midstream"] = error.code
out["partial"] = len(partial)

print(json.dumps(out))
