// The `skein` program: parses arguments and hands over.

import { runCli } from './cli/cli.js';

const LINGER_MS = 200;

const code = await runCli(process.argv.slice(2));
process.exitCode = code;
// A command that failed does not live on by what it had opened: an agent that could not start would keep its port, serve
// nothing, and never be started again.
if (code !== 0) setTimeout(() => process.exit(code), LINGER_MS).unref();
