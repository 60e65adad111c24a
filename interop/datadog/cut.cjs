// Write the part of Datadog's description of its API that says how the given paths are called.
//
//   node cut.cjs openapi.yaml out.json /api/v2/logs ...
//
// The whole of it is 9 MB, which the validator takes minutes to read.
const fs = require("fs");
const yaml = require("js-yaml");

const [source, target, ...paths] = process.argv.slice(2);
const whole = yaml.load(fs.readFileSync(source, "utf8"));
const part = { openapi: whole.openapi, info: whole.info, paths: {}, components: {} };
part.components.securitySchemes = whole.components.securitySchemes;
part.security = whole.security;

function take(node) {
  if (node === null || typeof node !== "object") return;
  for (const [key, value] of Object.entries(node)) {
    if (key !== "$ref" || typeof value !== "string") {
      take(value);
      continue;
    }
    const [, , kind, name] = value.split("/");
    part.components[kind] ??= {};
    if (!(name in part.components[kind])) {
      part.components[kind][name] = whole.components[kind][name];
      take(part.components[kind][name]);
    }
  }
}

for (const path of paths) {
  part.paths[path] = whole.paths[path];
  // its own addresses; ours is another
  for (const operation of Object.values(part.paths[path])) delete operation.servers;
  take(part.paths[path]);
}
fs.writeFileSync(target, JSON.stringify(part));
