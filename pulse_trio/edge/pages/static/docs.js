// Shows the operations of /openapi.json, each with a form to try it. Values of the document are inserted as text only.

const METHODS = ["get", "post", "patch", "put", "delete"];

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function resolve(schema, spec) {
  if (!schema) return {};
  if (schema.$ref) return resolve(schema.$ref.split("/").slice(1).reduce((at, key) => at[key], spec), spec);
  return schema;
}

function example(schema, spec, depth = 0) {
  const s = resolve(schema, spec);
  if (s.examples?.length) return s.examples[0];
  if (s.default !== undefined && s.default !== null) return s.default;
  if (s.anyOf) return example(s.anyOf.find((part) => part.type !== "null"), spec, depth);
  if (s.type === "object" && depth < 4) {
    return Object.fromEntries(Object.entries(s.properties ?? {}).map(([key, value]) => [key, example(value, spec, depth + 1)]));
  }
  if (s.type === "array") return depth < 4 ? [example(s.items, spec, depth + 1)] : [];
  return { string: "text", integer: 1, number: 1, boolean: false }[s.type] ?? null;
}

function limits(schema) {
  const names = { minimum: "≥", maximum: "≤", minLength: "length ≥", maxLength: "length ≤" };
  const parts = Object.entries(names).filter(([key]) => schema[key] !== undefined).map(([key, sign]) => `${sign} ${schema[key]}`);
  if (schema.default !== undefined && schema.default !== null && schema.default !== "") parts.push(`default ${schema.default}`);
  return [schema.type, ...parts].join(", ");
}

function tryOut(path, method, operation, spec) {
  const inputs = new Map();
  const form = element("form");
  for (const parameter of operation.parameters ?? []) {
    const input = element("input", { name: parameter.name, required: parameter.in === "path" });
    inputs.set(parameter, input);
    const label = element("label", {}, element("code", { textContent: parameter.name }), ` ${parameter.description ?? ""} (${limits(parameter.schema)})`);
    label.append(input);
    form.append(label);
  }
  let body;
  const content = operation.requestBody?.content?.["application/json"];
  if (content) {
    body = element("textarea", { value: JSON.stringify(example(content.schema, spec), null, 2), ariaLabel: "Request body", spellcheck: false });
    form.append(element("h4", { textContent: "Body" }), body);
  }
  const output = element("pre", { hidden: true, ariaLive: "polite" });
  form.append(element("button", { textContent: "Send" }), output);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let address = path;
    const query = new URLSearchParams();
    for (const [parameter, input] of inputs) {
      if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value !== "") query.set(parameter.name, input.value);
    }
    const headers = {};
    const token = document.getElementById("token").value.trim();
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body) headers["Content-Type"] = "application/json";
    output.hidden = false;
    try {
      const response = await fetch(query.size ? `${address}?${query}` : address, { method: method.toUpperCase(), headers, body: body?.value });
      const text = await response.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: show the text */ }
      output.textContent = `${response.status} ${response.statusText}\n\n${shown}`;
    } catch (error) {
      output.textContent = `No answer: ${error.message}`;
    }
  });
  return form;
}

function card(path, method, operation, spec) {
  const summary = element("summary", {},
    element("span", { className: `method ${method}`, textContent: method.toUpperCase() }),
    element("code", { textContent: path }),
    element("span", { textContent: operation.summary ?? "" }));
  const answers = element("dl");
  for (const [status, response] of Object.entries(operation.responses)) {
    answers.append(element("dt", {}, element("code", { textContent: status })), element("dd", { textContent: response.description }));
  }
  const inside = element("div", {}, element("p", { textContent: operation.description ?? "" }), tryOut(path, method, operation, spec), element("h4", { textContent: "Answers" }), answers);
  const good = Object.values(operation.responses).find((response) => response.content?.["application/json"] && !response.content["application/json"].example);
  if (good) {
    inside.append(element("h4", { textContent: "Example of an answer" }), element("pre", { textContent: JSON.stringify(example(good.content["application/json"].schema, spec), null, 2) }));
  }
  return element("details", {}, summary, inside);
}

const main = document.getElementById("operations");
try {
  const spec = await (await fetch("/openapi.json")).json();
  document.getElementById("title").textContent = `${spec.info.title} ${spec.info.version}: the REST API`;
  document.getElementById("description").textContent = spec.info.description.replaceAll("`", "");
  const groups = new Map();
  for (const [path, operations] of Object.entries(spec.paths)) {
    for (const method of METHODS.filter((name) => operations[name])) {
      const operation = operations[method];
      const group = operation.tags?.[0] ?? "other";
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(card(path, method, operation, spec));
    }
  }
  main.replaceChildren(...[...groups].flatMap(([name, cards]) => [element("h2", { textContent: name }), ...cards]));
} catch (error) {
  main.replaceChildren(element("p", { textContent: `The API description could not be loaded: ${error.message}` }));
}
