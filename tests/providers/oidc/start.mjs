// Starts the provider and, on a port of its own and on loopback only, the controls.

import { createServer } from 'node:http';

import {
  approved, CLIENTS, createProvider, decide, declined, introspect, mint, revoke, sha256,
} from './provider.mjs';

export const DEFAULTS = {
  host: '127.0.0.1',
  port: 0,
  tenant: 'aaaabbbb-0000-cccc-1111-dddd2222eeee',
  account: 'etl@contoso.example',
  scopes: ['openid', 'offline_access', 'Mail.Read', 'User.Read'],
  accessTokenTtl: 3600,
  deviceCodeTtl: 600,
};

const LOOPBACK = '127.0.0.1';

/** Starts both servers. `first` is the account's first refresh token for the public client. */
export async function start(options = {}) {
  const settings = { ...DEFAULTS, ...options };
  let serve;
  const server = createServer((request, response) => serve(request, response));
  await listen(server, settings.port, settings.host);
  const url = `http://${settings.host}:${server.address().port}`;
  const { provider, journal } = createProvider(url, settings);
  serve = provider.callback();

  const mintFor = ({ account = settings.account, client_id: clientId = CLIENTS.public.id, scopes = settings.scopes } = {}) =>
    mint(provider, { account, clientId, scopes });
  const first = await mintFor();

  const controls = createServer(handler({ provider, journal, first, mintFor, settings }));
  await listen(controls, 0, LOOPBACK);

  return {
    first,
    info: {
      url,
      token_endpoint: `${url}/${settings.tenant}/oauth2/v2.0/token`,
      device_authorization_endpoint: `${url}/${settings.tenant}/oauth2/v2.0/devicecode`,
      control: `http://${LOOPBACK}:${controls.address().port}`,
      tenant: settings.tenant,
      account: settings.account,
      scopes: settings.scopes,
      clients: CLIENTS,
    },
    async stop() {
      await Promise.all([server, controls].map(close));
    },
  };
}

/** The controls: see README.md. */
function handler({ provider, journal, first, mintFor, settings }) {
  const routes = {
    'GET /first': () => ({ refresh_token: first, account: settings.account, client_id: CLIENTS.public.id }),
    'POST /refresh-tokens': async (body) => {
      const token = await mintFor(body);
      return { refresh_token: token, sha256: sha256(token) };
    },
    'POST /introspect': ({ token }) => introspect(provider, token),
    'POST /revoke': async ({ refresh_token: token }) => {
      await revoke(provider, token);
      return {};
    },
    'POST /device-codes/approve': async ({ user_code: code, account = settings.account }) => {
      await decide(provider, code, approved(provider, account));
      return {};
    },
    'POST /device-codes/decline': async ({ user_code: code }) => {
      await decide(provider, code, declined);
      return {};
    },
    'PUT /settings': ({ device_lifetime_seconds: seconds }) => {
      if (!(Number.isInteger(seconds) && seconds > 0)) throw new RangeError('device_lifetime_seconds is no number of seconds');
      settings.deviceCodeTtl = seconds;
      return {};
    },
    'GET /journal': () => journal,
  };
  return async (request, response) => {
    const route = routes[`${request.method} ${request.url}`];
    const answer = (status, body) => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    };
    if (!route) return answer(404, { error: 'no such control' });
    try {
      return answer(200, await route(await readJson(request)));
    } catch (error) {
      return answer(400, { error: error.message });
    }
  };
}

async function readJson(request) {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text ? JSON.parse(text) : {};
}

function listen(server, port, host) {
  return new Promise((resolve, reject) => {
    server.once('error', reject).listen(port, host, resolve);
  });
}

function close(server) {
  return new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  });
}
