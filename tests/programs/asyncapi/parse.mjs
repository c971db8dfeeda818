// Parses the AsyncAPI document named on the command line by the official parser; exit code 1 on errors and warnings.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const WARNING = 1; // 0 is an error, 2 and 3 are advice
const [path] = process.argv.slice(2);
const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf8"), { source: path });
for (const { severity, code, message, path: place } of diagnostics) {
  console.log(`${severity <= WARNING ? "problem" : "advice"}: ${code}: ${message} (${place.join(".")})`);
}
const valid = document !== undefined && diagnostics.every(({ severity }) => severity > WARNING);
if (valid) {
  const counts = [document.allChannels(), document.allOperations(), document.allMessages()].map((all) => all.length);
  console.log(`${counts[0]} channels, ${counts[1]} operations, ${counts[2]} messages`);
}
process.exit(valid ? 0 : 1);
