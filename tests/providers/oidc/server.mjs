// The command line of the test provider. README.md tells its options and what it prints.

import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { DEFAULTS, start } from './start.mjs';

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: DEFAULTS.host },
    port: { type: 'string', default: String(DEFAULTS.port) },
    tenant: { type: 'string', default: DEFAULTS.tenant },
    account: { type: 'string', default: DEFAULTS.account },
    scopes: { type: 'string', default: DEFAULTS.scopes.join(' ') },
    'access-token-ttl': { type: 'string', default: String(DEFAULTS.accessTokenTtl) },
    'seed-file': { type: 'string' },
    'exit-with-stdin': { type: 'boolean', default: false },
  },
});

const server = await start({
  host: values.host,
  port: Number(values.port),
  tenant: values.tenant,
  account: values.account,
  scopes: values.scopes.split(' ').filter(Boolean),
  accessTokenTtl: Number(values['access-token-ttl']),
});
if (values['seed-file']) writeFileSync(values['seed-file'], server.first, { mode: 0o600 });

const stop = async () => {
  await server.stop();
  process.exit(0);
};
process.once('SIGTERM', stop).once('SIGINT', stop);
if (values['exit-with-stdin']) process.stdin.once('end', stop).once('error', stop).resume();

process.stdout.write(`${JSON.stringify(server.info)}\n`);
