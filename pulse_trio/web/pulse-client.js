// The address to import: `import { PulseClient } from "/pulse-client.js"`. The client is the folder beside it.
export * from "./pulse-client/index.js";
