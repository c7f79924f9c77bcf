// What the provider answers, as the operator will ask. Time is moved, not waited for.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { constants, randomUUID, sign } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, mock, test } from 'node:test';

import { CLIENTS, CLIENT_KEY, sha256 } from './provider.mjs';
import { start } from './start.mjs';

const SCOPE = 'openid offline_access Mail.Read User.Read';

let server;
before(async () => {
  server = await start({ accessTokenTtl: 5 });
});
after(() => server.stop());

async function post(url, form) {
  const response = await fetch(url, { method: 'POST', body: new URLSearchParams(form) });
  return { status: response.status, ...(await response.json()) };
}

const token = (form) => post(server.info.token_endpoint, form);

async function control(method, route, body) {
  const response = await fetch(`${server.info.control}${route}`, { method, body: body && JSON.stringify(body) });
  return { status: response.status, ...(await response.json()) };
}

const mint = async (body = {}) => (await control('POST', '/refresh-tokens', body)).refresh_token;

// As the operator asks when endpoints.token is set.
const refresh = (refreshToken, form = {}) => token({
  grant_type: 'refresh_token',
  client_id: CLIENTS.public.id,
  refresh_token: refreshToken,
  scope: SCOPE,
  client_info: '1',
  ...form,
});

describe('rotation', () => {
  test('thirty rotations in a row work, each with tokens of its own', async () => {
    const seen = new Set();
    let current = await mint();
    for (let round = 0; round < 30; round += 1) {
      const answer = await refresh(current);
      assert.equal(answer.status, 200);
      seen.add(current).add(answer.access_token);
      current = answer.refresh_token;
    }
    assert.equal(seen.size, 60);
  });

  test('a replay revokes the family, its access tokens included, and no other', async () => {
    const [first, bystander] = [await mint(), await mint()];
    const second = await refresh(first);
    const replay = await refresh(first);
    assert.deepEqual([replay.status, replay.error], [400, 'invalid_grant']);
    const newest = await refresh(second.refresh_token);
    assert.deepEqual([newest.status, newest.error], [400, 'invalid_grant']);
    assert.equal((await control('POST', '/introspect', { token: second.access_token })).active, false);
    assert.equal((await refresh(bystander)).status, 200);
  });

  test('a revoked sign-in is refused', async () => {
    const first = await mint();
    await control('POST', '/revoke', { refresh_token: first });
    assert.equal((await refresh(first)).error, 'invalid_grant');
  });
});

describe('the token response', () => {
  test('holds numbers, the granted scopes, an ID token with sub, and no client_info', async () => {
    const answer = await refresh(await mint());
    assert.deepEqual(
      Object.keys(answer).sort(),
      ['access_token', 'expires_in', 'id_token', 'refresh_token', 'scope', 'status', 'token_type'],
    );
    assert.deepEqual([answer.token_type, answer.expires_in, answer.scope], ['Bearer', 5, SCOPE]);
    const claims = JSON.parse(Buffer.from(answer.id_token.split('.')[1], 'base64url'));
    assert.equal(claims.sub, server.info.account);
  });

  test('has no ID token unless openid was asked for', async () => {
    const answer = await refresh(await mint(), { scope: 'offline_access Mail.Read' });
    assert.deepEqual([answer.status, answer.id_token, answer.scope], [200, undefined, 'offline_access Mail.Read']);
  });

  test('has a refresh token even without offline_access, for the one presented is spent', async () => {
    const answer = await refresh(await mint(), { scope: 'Mail.Read' });
    assert.equal(typeof answer.refresh_token, 'string');
  });

  test('refuses a scope that the sign-in did not include, known or not', async () => {
    for (const scope of ['Mail.Read Files.Read', 'Mail.Read No.Such']) {
      const answer = await refresh(await mint(), { scope });
      assert.deepEqual([answer.status, answer.error], [400, 'invalid_scope']);
    }
  });
});

function assertion(claims = {}) {
  const now = Math.floor(Date.now() / 1000);
  const { id } = CLIENTS.certificate;
  const parts = [
    { alg: 'PS256', typ: 'JWT' },
    { aud: server.info.token_endpoint, iss: id, sub: id, jti: randomUUID(), nbf: now, iat: now, exp: now + 600, ...claims },
  ];
  const signed = parts.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  const padding = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST };
  return `${signed}.${sign('sha256', signed, { key: CLIENT_KEY, ...padding }).toString('base64url')}`;
}

describe('clients', () => {
  test('an assertion proves a client once, and at this endpoint only', async () => {
    const prove = (proof) => token({
      grant_type: 'client_credentials',
      client_id: CLIENTS.certificate.id,
      scope: '.default',
      client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
      client_assertion: proof,
    });
    const proof = assertion();
    assert.equal((await prove(proof)).status, 200);
    for (const refused of [proof, assertion({ aud: 'https://elsewhere.example/token' }), assertion({ exp: 1 })]) {
      const answer = await prove(refused);
      assert.deepEqual([answer.status, answer.error], [401, 'invalid_client']);
    }
    const { requests } = await control('GET', '/journal');
    assert.equal(requests.filter((request) => request.assertion_sha256 === sha256(proof)).length, 2);
  });

  test('a confidential client must present its secret', async () => {
    const { id, secret } = CLIENTS.confidential;
    const first = await mint({ client_id: id });
    const without = await refresh(first, { client_id: id });
    assert.deepEqual([without.status, without.error], [401, 'invalid_client']);
    const wrong = await refresh(first, { client_id: id, client_secret: 'guess' });
    assert.deepEqual([wrong.status, wrong.error], [401, 'invalid_client']);
    assert.equal((await refresh(first, { client_id: id, client_secret: secret })).status, 200);
  });

  test('a token of another client is refused', async () => {
    const answer = await refresh(await mint({ client_id: CLIENTS.confidential.id }));
    assert.deepEqual([answer.status, answer.error], [400, 'invalid_grant']);
  });

  test('an app gets an access token and no refresh token', async () => {
    const { id, secret } = CLIENTS.app;
    const scope = 'https://graph.microsoft.com/.default';
    const answer = await token({ grant_type: 'client_credentials', client_id: id, client_secret: secret, scope });
    assert.deepEqual([answer.status, answer.expires_in, answer.scope, answer.refresh_token], [200, 5, scope, undefined]);
    assert.equal((await control('POST', '/introspect', { token: answer.access_token })).active, true);
  });

  test('an unknown scope of an app is dropped without a word', async () => {
    const { id, secret } = CLIENTS.app;
    const form = { grant_type: 'client_credentials', client_id: id, client_secret: secret };
    const answer = await token({ ...form, scope: 'Mail.Read No.Such' });
    assert.deepEqual([answer.status, answer.scope], [200, 'Mail.Read']);
    const refused = await token({ ...form, client_secret: 'guess', scope: 'Mail.Read' });
    assert.deepEqual([refused.status, refused.error], [401, 'invalid_client']);
  });
});

describe('device codes', () => {
  const { id } = CLIENTS.device;
  const ask = (form = {}) => post(server.info.device_authorization_endpoint, { client_id: id, scope: SCOPE, ...form });
  const poll = (code) => token({
    grant_type: 'urn:ietf:params:oauth:grant-type:device_code',
    client_id: id,
    device_code: code.device_code,
    client_info: '1',
  });
  const approve = (code, body = {}) => control('POST', '/device-codes/approve', { user_code: code.user_code, ...body });

  test('a code waits, is approved, and starts a chain like any other', async () => {
    const code = await ask();
    assert.deepEqual([code.status, code.expires_in, code.interval], [200, 600, undefined]);
    assert.match(code.user_code, /^[A-Z]{4}-[A-Z]{4}$/);
    assert.equal(code.verification_uri, `${server.info.url}/device`);
    const pending = await poll(code);
    assert.deepEqual([pending.status, pending.error], [400, 'authorization_pending']);
    assert.equal((await approve(code)).status, 200);
    const answer = await poll(code);
    assert.deepEqual([answer.status, answer.expires_in, answer.scope], [200, 5, SCOPE]);
    const { account } = await control('POST', '/introspect', { token: answer.access_token });
    assert.equal(account, server.info.account);
    const next = await refresh(answer.refresh_token, { client_id: id });
    assert.equal(next.status, 200);
    assert.equal((await refresh(answer.refresh_token, { client_id: id })).error, 'invalid_grant');
    assert.equal((await refresh(next.refresh_token, { client_id: id })).error, 'invalid_grant');
  });

  test('another account can approve it, and nobody a second time', async () => {
    const code = await ask();
    await approve(code, { account: 'other@contoso.example' });
    assert.equal((await approve(code)).status, 400);
    const answer = await poll(code);
    const { account } = await control('POST', '/introspect', { token: answer.access_token });
    assert.equal(account, 'other@contoso.example');
    assert.equal((await poll(code)).error, 'invalid_grant');
  });

  test('without offline_access there is no refresh token', async () => {
    const code = await ask({ scope: 'openid Mail.Read' });
    await approve(code);
    const answer = await poll(code);
    assert.deepEqual([answer.status, answer.refresh_token], [200, undefined]);
  });

  test('a declined code is refused', async () => {
    const code = await ask();
    assert.equal((await control('POST', '/device-codes/decline', { user_code: code.user_code })).status, 200);
    const answer = await poll(code);
    assert.deepEqual([answer.status, answer.error], [400, 'access_denied']);
  });

  test('a code lives as long as the settings say', async () => {
    mock.timers.enable({ apis: ['Date'], now: Date.UTC(2026, 10, 23) });
    try {
      assert.equal((await control('PUT', '/settings', { device_lifetime_seconds: 7 })).status, 200);
      const code = await ask();
      assert.equal(code.expires_in, 7);
      mock.timers.tick(6_000);
      assert.equal((await poll(code)).error, 'authorization_pending');
      mock.timers.tick(1_000);
      const answer = await poll(code);
      assert.deepEqual([answer.status, answer.error], [400, 'expired_token']);
      assert.equal((await approve(code)).status, 400);
    } finally {
      await control('PUT', '/settings', { device_lifetime_seconds: 600 });
      mock.timers.reset();
    }
  });

  test('the journal tells of codes and polls by digest', async () => {
    const code = await ask();
    await poll(code);
    const journal = await control('GET', '/journal');
    const [asked, polled] = [journal.device.at(-1), journal.requests.at(-1)];
    assert.deepEqual([asked.client_id, asked.outcome, asked.scopes.join(' ')], [id, 'issued', SCOPE]);
    assert.deepEqual([polled.outcome, polled.error], ['refused', 'authorization_pending']);
    assert.deepEqual([asked.device_sha256, polled.device_sha256], Array(2).fill(sha256(code.device_code)));
    assert.ok(!JSON.stringify(journal).includes(code.device_code));
  });

  test('only the client of that grant may ask', async () => {
    const answer = await ask({ client_id: CLIENTS.public.id });
    assert.deepEqual([answer.status, answer.error], [400, 'invalid_request']);
  });
});

describe('introspection', () => {
  test('an access token of five seconds is active for five seconds', async () => {
    mock.timers.enable({ apis: ['Date'], now: Date.UTC(2026, 10, 23) });
    try {
      const { access_token: access } = await refresh(await mint());
      const look = () => control('POST', '/introspect', { token: access });
      const fresh = await look();
      assert.deepEqual([fresh.active, fresh.remaining_seconds, fresh.account], [true, 5, server.info.account]);
      assert.deepEqual(fresh.scopes, SCOPE.split(' '));
      mock.timers.tick(4_000);
      assert.equal((await look()).active, true);
      mock.timers.tick(1_000);
      assert.equal((await look()).active, false);
    } finally {
      mock.timers.reset();
    }
  });
});

describe('the controls', () => {
  test('the first token can be fetched and redeemed', async () => {
    const first = await control('GET', '/first');
    assert.equal((await refresh(first.refresh_token)).status, 200);
  });

  test('an account can be chosen', async () => {
    const answer = await refresh(await mint({ account: 'other@contoso.example' }));
    const { account } = await control('POST', '/introspect', { token: answer.access_token });
    assert.equal(account, 'other@contoso.example');
  });

  test('the journal tells requests by digest and holds no token', async () => {
    const first = await mint();
    const answer = await refresh(first);
    await refresh('unknown');
    const journal = await control('GET', '/journal');
    const [issued, refused] = journal.requests.slice(-2);
    assert.deepEqual(
      [issued.grant, issued.client_id, issued.outcome, issued.scopes.join(' ')],
      ['refresh_token', CLIENTS.public.id, 'issued', SCOPE],
    );
    assert.deepEqual([issued.received_sha256, issued.issued_sha256], [sha256(first), sha256(answer.refresh_token)]);
    assert.deepEqual([refused.outcome, refused.status, refused.error], ['refused', 400, 'invalid_grant']);
    const text = JSON.stringify(journal);
    for (const value of [first, answer.refresh_token, answer.access_token]) assert.ok(!text.includes(value));
  });

  test('a mistake is told', async () => {
    assert.equal((await control('POST', '/refresh-tokens', { client_id: 'nobody' })).status, 400);
    assert.equal((await control('GET', '/nothing')).status, 404);
    assert.equal((await control('POST', '/device-codes/approve', { user_code: 'NONE-SUCH' })).status, 400);
    assert.equal((await control('PUT', '/settings', { device_lifetime_seconds: 0 })).status, 400);
  });
});

describe('the process', () => {
  const run = async (...args) => {
    const child = spawn(process.execPath, [new URL('server.mjs', import.meta.url).pathname, ...args]);
    const [line] = await once(createInterface(child.stdout), 'line');
    return { child, info: JSON.parse(line) };
  };

  test('says where it is in its first line, and writes the first token only to the file asked for', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'oidc-'));
    const file = path.join(dir, 'seed');
    const { child, info } = await run('--access-token-ttl', '7', '--seed-file', file);
    const seed = await readFile(file, 'utf8');
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    const form = { grant_type: 'refresh_token', client_id: info.clients.public.id, refresh_token: seed };
    const response = await fetch(info.token_endpoint, { method: 'POST', body: new URLSearchParams(form) });
    assert.equal((await response.json()).expires_in, 7);
    child.kill('SIGTERM');
    assert.deepEqual(await once(child, 'exit'), [0, null]);
    await rm(dir, { recursive: true });
  });

  test('ends on SIGINT, and with its stdin if so asked', async () => {
    const interrupted = await run();
    interrupted.child.kill('SIGINT');
    assert.deepEqual(await once(interrupted.child, 'exit'), [0, null]);
    const orphan = await run('--exit-with-stdin');
    orphan.child.stdin.end();
    assert.deepEqual(await once(orphan.child, 'exit'), [0, null]);
  });
});
