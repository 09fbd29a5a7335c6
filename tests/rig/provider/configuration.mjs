// How the npm package oidc-provider is set up, and the knobs that tests may turn while it runs.
import crypto from 'node:crypto';
import { errors } from 'oidc-provider';
import { Storage } from './storage.mjs';
import { standing, TOKEN_EXCHANGE } from './clients.mjs';

export const defaultKnobs = {
  access_token_ttl: 300, // seconds, as all of these
  refresh_token_ttl: 3600,
  id_token_ttl: 300,
  rotate: null, // true or false overrules every client's x_rotate
  dpop_nonce: false, // ask for a nonce in DPoP proofs (RFC 9449, section 8)
  auto_login: null, // a user name: sign that user in without showing a page
  id_token_claims: true, // put name and email into the id_token, as most providers do; false: only into userinfo
};
export const knobs = { ...defaultKnobs };

const ALGORITHMS = [
  ['RS256', 'rsa', { modulusLength: 2048 }],
  ['ES256', 'ec', { namedCurve: 'P-256' }],
  ['EdDSA', 'ed25519', {}],
];

export function freshKeys(tag) {
  return ALGORITHMS.map(([alg, type, options]) => ({
    ...crypto.generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }),
    kid: `${alg}-${tag}`,
    use: 'sig',
    // The RSA key serves PS256 as well, so it names no algorithm.
    ...(alg === 'RS256' ? {} : { alg }),
  }));
}

// Remote APIs by their resource indicator (RFC 8707).
const resources = {
  'https://api.example/': { scope: 'api:read api:write', audience: 'https://api.example/', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } },
  'https://api2.example/': { scope: 'api:read', audience: 'https://api2.example/', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } },
  'https://billing.internal': { scope: 'api:read api:write', audience: 'https://billing.internal', accessTokenFormat: 'opaque' },
  'https://opaque.example/': { scope: 'api:read', audience: 'https://opaque.example/', accessTokenFormat: 'opaque' },
};

export function resourceServer(_ctx, indicator) {
  if (!(indicator in resources)) throw new errors.InvalidTarget();
  return { ...resources[indicator] };
}

function issuesRefreshToken(_ctx, client, source) {
  const when = client.x_refresh_tokens ?? 'always';
  return client.grantTypeAllowed('refresh_token') && (when === 'always' || (when === 'offline_access' && source.scopes.has('offline_access')));
}

export function configuration(jwks, extraClients) {
  return {
    adapter: Storage,
    jwks,
    clients: [...standing.filter(({ client_id }) => !extraClients.some((extra) => extra.client_id === client_id)), ...extraClients],
    extraClientMetadata: { properties: ['x_rotate', 'x_access_token_ttl', 'x_refresh_token_ttl', 'x_refresh_tokens'] },
    scopes: ['openid', 'offline_access', 'profile', 'email', 'orders.read', 'api:read', 'api:write'],
    claims: {
      openid: ['sub', 'sid'],
      profile: ['name', 'preferred_username'],
      email: ['email', 'email_verified'],
      acr: null,
      amr: null,
      auth_time: null,
      iss: null,
    },
    conformIdTokenClaims: !knobs.id_token_claims,
    cookies: { keys: ['for-tests-only'] },
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'none'],
    enabledJWA: {
      idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA', 'HS256'],
      authorizationSigningAlgValues: ['RS256', 'ES256'],
    },
    clockTolerance: 2,
    features: {
      devInteractions: { enabled: true }, // plain forms that take any name; a script or a browser can fill them in
      backchannelLogout: { enabled: true },
      claimsParameter: { enabled: true },
      clientCredentials: { enabled: true },
      dPoP: { enabled: true, nonceSecret: Buffer.alloc(32, 7), requireNonce: () => knobs.dpop_nonce },
      introspection: { enabled: true },
      jwtResponseModes: { enabled: true },
      pushedAuthorizationRequests: { enabled: true },
      requestObjects: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: async (_ctx, _client, oneOf) => oneOf,
        useGrantedResource: async () => true, // a token request may leave `resource` out
        getResourceServerInfo: async (ctx, indicator) => resourceServer(ctx, indicator),
      },
      revocation: { enabled: true },
      rpInitiatedLogout: { enabled: true },
      userinfo: { enabled: true },
    },
    // The provider refuses to call loopback addresses, by a dispatcher that it hands to fetch. Without it, back-channel
    // logout and jwks_uri reach the application under test. Nor does it give up after 2.5 s: the machine may be busy.
    fetch: (url, { dispatcher: _guard, signal: _deadline, ...options }) => globalThis.fetch(url, options),
    issueRefreshToken: async (...of) => issuesRefreshToken(...of),
    rotateRefreshToken: (ctx) => knobs.rotate ?? ctx.oidc.client.x_rotate ?? true,
    ttl: {
      AccessToken: (_ctx, _token, client) => client?.x_access_token_ttl ?? knobs.access_token_ttl,
      ClientCredentials: (_ctx, _token, client) => client?.x_access_token_ttl ?? knobs.access_token_ttl,
      RefreshToken: (_ctx, _token, client) => client?.x_refresh_token_ttl ?? knobs.refresh_token_ttl,
      IdToken: () => knobs.id_token_ttl,
      AuthorizationCode: 60,
      Interaction: 600,
      Session: 3600,
      Grant: 7200,
    },
    findAccount: async (_ctx, sub) => ({
      accountId: sub,
      claims: async () => ({ sub, name: `User ${sub}`, preferred_username: sub, email: `${sub}@example.test`, email_verified: true }),
    }),
    // RFC 8693, section 4.1: the exchanging client acts for the subject.
    extraTokenClaims: async (ctx) => (ctx.oidc.params?.grant_type === TOKEN_EXCHANGE ? { act: { sub: ctx.oidc.client.clientId } } : undefined),
  };
}
