// The provider's configuration: five clients, one tenant in the path, rotation with replay detection.

import { createHash, createPublicKey, generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';

import { Provider } from 'oidc-provider';

import { mapAdapter } from './adapter.mjs';

export const CLIENTS = {
  public: { id: 'public-client' },
  confidential: { id: 'confidential-client', secret: 'confidential-client-secret' },
  app: { id: 'app-client', secret: 'app-client-secret' },
  certificate: { id: 'certificate-client' },
  device: { id: 'device-client' },
};

// What the certificate client signs its assertions with.
export const CLIENT_KEY = readFileSync(new URL('../../pki/client.key', import.meta.url));

const GRAPH = 'https://graph.microsoft.com/';
const SHORT_SCOPES = ['.default', 'Mail.Read', 'Mail.ReadWrite', 'Mail.Send', 'User.Read', 'Files.Read', 'Files.ReadWrite'];
// What an app asks for beyond these is dropped without a word; a refresh refuses what its sign-in lacks.
export const SCOPES = [
  'openid', 'offline_access', 'profile', 'email',
  ...SHORT_SCOPES, ...SHORT_SCOPES.map((scope) => `${GRAPH}${scope}`),
];

const DEVICE_GRANT = 'urn:ietf:params:oauth:grant-type:device_code';
const REFRESH_TOKEN_TTL = 14 * 24 * 3600;

export const sha256 = (value) => createHash('sha256').update(value).digest('hex');

/** Builds the provider, and the journal that it fills. What `settings` says of device codes may change while it runs. */
export function createProvider(issuer, settings) {
  const { tenant, accessTokenTtl } = settings;
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const user = ({ id, secret }, method) => ({
    client_id: id,
    client_secret: secret,
    token_endpoint_auth_method: method,
    grant_types: ['authorization_code', 'refresh_token'],
    redirect_uris: ['https://localhost/callback'],
  });
  const provider = new Provider(issuer, {
    adapter: mapAdapter(),
    clients: [
      user(CLIENTS.public, 'none'),
      user(CLIENTS.confidential, 'client_secret_post'),
      {
        client_id: CLIENTS.app.id,
        client_secret: CLIENTS.app.secret,
        token_endpoint_auth_method: 'client_secret_post',
        grant_types: ['client_credentials'],
        response_types: [],
        redirect_uris: [],
      },
      {
        client_id: CLIENTS.device.id,
        token_endpoint_auth_method: 'none',
        grant_types: [DEVICE_GRANT, 'refresh_token'],
        response_types: [],
        redirect_uris: [],
      },
      {
        ...user(CLIENTS.certificate, 'private_key_jwt'),
        token_endpoint_auth_signing_alg: 'PS256',
        grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
        jwks: { keys: [{ ...createPublicKey(CLIENT_KEY).export({ format: 'jwk' }), use: 'sig', alg: 'PS256' }] },
      },
    ],
    cookies: { keys: ['no browser comes here'] },
    features: {
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      devInteractions: { enabled: false },
    },
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256' }] },
    rotateRefreshToken: true,
    routes: {
      token: `/${tenant}/oauth2/v2.0/token`,
      device_authorization: `/${tenant}/oauth2/v2.0/devicecode`,
    },
    scopes: SCOPES,
    ttl: {
      AccessToken: accessTokenTtl,
      ClientCredentials: accessTokenTtl,
      DeviceCode: () => settings.deviceCodeTtl,
      Grant: REFRESH_TOKEN_TTL,
      IdToken: 3600,
      RefreshToken: REFRESH_TOKEN_TTL,
    },
  });
  const journal = { requests: [], device: [] };
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.oidc?.route === 'token') journal.requests.push(entry(ctx));
    if (ctx.oidc?.route === 'device_authorization') journal.device.push(deviceEntry(ctx));
  });
  return { provider, journal };
}

const digest = (value) => (typeof value === 'string' ? sha256(value) : null);

/** What the journal says of a request for a device code. */
function deviceEntry(ctx) {
  const { client, body: form = {} } = ctx.oidc;
  const answer = ctx.body ?? {};
  return {
    time_ms: Date.now(),
    client_id: client?.clientId ?? form.client_id ?? null,
    scopes: (form.scope ?? '').split(' ').filter(Boolean),
    outcome: answer.error ? 'refused' : 'issued',
    status: ctx.status,
    error: answer.error ?? null,
    error_description: answer.error_description ?? null,
    device_sha256: digest(answer.device_code ?? form.device_code),
  };
}

/** What the journal says of a request to the token endpoint: never a token, only its digest. */
function entry(ctx) {
  const { params = {}, body: form = {} } = ctx.oidc;
  const answer = ctx.body ?? {};
  return {
    ...deviceEntry(ctx),
    grant: params.grant_type ?? form.grant_type ?? null,
    assertion_sha256: digest(form.client_assertion),
    received_sha256: digest(form.refresh_token),
    issued_sha256: digest(answer.refresh_token),
    access_sha256: digest(answer.access_token),
  };
}

/** Signs an account in to a client, as a browser would have, and returns the first refresh token. */
export async function mint(provider, { account, clientId, scopes }) {
  const client = await provider.Client.find(clientId);
  if (!client) throw new RangeError(`no such client: ${clientId}`);
  const scope = scopes.join(' ');
  const grant = new provider.Grant({ accountId: account, clientId });
  grant.addOIDCScope(scope);
  const grantId = await grant.save();
  const token = new provider.RefreshToken({
    accountId: account, authTime: Math.floor(Date.now() / 1000), client, grantId, gty: 'authorization_code', rotations: 0, scope,
  });
  return token.save();
}

/** What the provider knows of an access token. */
export async function introspect(provider, value) {
  const token = (await provider.AccessToken.find(value)) ?? (await provider.ClientCredentials.find(value));
  if (!token?.isValid) return { active: false };
  return {
    active: true,
    client_id: token.clientId,
    account: token.accountId ?? null,
    scopes: [...token.scopes],
    remaining_seconds: token.exp - Math.floor(Date.now() / 1000),
  };
}

/** Revokes everything that stems from the sign-in to which a refresh token belongs. */
export async function revoke(provider, value) {
  const token = await provider.RefreshToken.find(value);
  if (!token) throw new RangeError('no such refresh token');
  await provider.RefreshToken.revokeByGrantId(token.grantId);
}

/** Finishes a device code as its pages would: signed in by an account, or declined by whoever looked at them. */
export async function decide(provider, userCode, outcome) {
  const code = await provider.DeviceCode.findByUserCode(userCode.replaceAll(/\W/g, ''));
  if (!code || code.isExpired) throw new RangeError('no such user code, or it ran out');
  if (code.error || code.accountId) throw new RangeError('that user code was decided already');
  Object.assign(code, await outcome(code));
  await code.save();
}

/** An account that signs in and consents to all that is asked for. */
export const approved = (provider, accountId) => async ({ clientId, params: { scope } }) => {
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope(scope);
  return { accountId, scope, authTime: Math.floor(Date.now() / 1000), grantId: await grant.save() };
};

/** Somebody who looks at the code and will not sign in. */
export const declined = () => ({ error: 'access_denied', errorDescription: 'End-User aborted interaction' });
