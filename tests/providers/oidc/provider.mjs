// The provider's configuration: four clients, one tenant in the path, rotation with replay detection.

import { createHash, createPublicKey, generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';

import { Provider } from 'oidc-provider';

import { mapAdapter } from './adapter.mjs';

export const CLIENTS = {
  public: { id: 'public-client' },
  confidential: { id: 'confidential-client', secret: 'confidential-client-secret' },
  app: { id: 'app-client', secret: 'app-client-secret' },
  certificate: { id: 'certificate-client' },
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

const REFRESH_TOKEN_TTL = 14 * 24 * 3600;

export const sha256 = (value) => createHash('sha256').update(value).digest('hex');

/** Builds the provider, and the journal that it fills. */
export function createProvider({ issuer, tenant, accessTokenTtl }) {
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
        ...user(CLIENTS.certificate, 'private_key_jwt'),
        token_endpoint_auth_signing_alg: 'PS256',
        grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
        jwks: { keys: [{ ...createPublicKey(CLIENT_KEY).export({ format: 'jwk' }), use: 'sig', alg: 'PS256' }] },
      },
    ],
    cookies: { keys: ['no browser comes here'] },
    features: { clientCredentials: { enabled: true }, devInteractions: { enabled: false } },
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256' }] },
    rotateRefreshToken: true,
    routes: { token: `/${tenant}/oauth2/v2.0/token` },
    scopes: SCOPES,
    ttl: {
      AccessToken: accessTokenTtl,
      ClientCredentials: accessTokenTtl,
      Grant: REFRESH_TOKEN_TTL,
      IdToken: 3600,
      RefreshToken: REFRESH_TOKEN_TTL,
    },
  });
  const journal = [];
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.oidc?.route === 'token') journal.push(entry(ctx));
  });
  return { provider, journal };
}

/** What the journal says of a request: never a token, only its digest. */
function entry(ctx) {
  const { params = {}, client, body: form = {} } = ctx.oidc;
  const answer = ctx.body ?? {};
  const digest = (value) => (typeof value === 'string' ? sha256(value) : null);
  return {
    time_ms: Date.now(),
    grant: params.grant_type ?? form.grant_type ?? null,
    client_id: client?.clientId ?? form.client_id ?? null,
    scopes: (form.scope ?? '').split(' ').filter(Boolean),
    outcome: answer.error ? 'refused' : 'issued',
    status: ctx.status,
    error: answer.error ?? null,
    error_description: answer.error_description ?? null,
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
