// Kinds of clients. `POST /_ctl/clients {"preset": "basic", "client_id": ..., "redirect_uris": [...]}` makes one of a kind;
// one of each that needs no key is registered from the start, for use by hand with an application on localhost:8000.
//
// Ours, beside the registered metadata:
//   x_rotate              a refresh answers with a new refresh token and the old one is spent (default: yes)
//   x_access_token_ttl    seconds; x_refresh_token_ttl likewise (defaults: the knobs of the control plane)
//   x_refresh_tokens      "always" (default), "offline_access" (only where that scope was granted), "never"

export const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';

const SCOPES = 'openid profile email offline_access orders.read api:read api:write';

const login = {
  redirect_uris: ['http://localhost:8000/bff/callback'],
  post_logout_redirect_uris: ['http://localhost:8000/bff/logged-out'],
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  scope: SCOPES,
};
const service = { redirect_uris: [], response_types: [], grant_types: ['client_credentials'], scope: 'api:read api:write' };

export const presets = {
  // A secret that shows who forgets the form encoding of RFC 6749, section 2.3.1.
  basic: { ...login, client_secret: 's3cret:with%odd+chars &', token_endpoint_auth_method: 'client_secret_basic' },
  post: { ...login, client_secret: 'post-secret', token_endpoint_auth_method: 'client_secret_post', x_rotate: false },
  pkjwt: { ...login, token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256' },
  public: { ...login, token_endpoint_auth_method: 'none' },
  dpop: { ...login, client_secret: 'dpop-secret', dpop_bound_access_tokens: true },
  svc: { ...service, client_secret: 'svc-secret' },
  tx: { ...service, client_secret: 'tx-secret', grant_types: [TOKEN_EXCHANGE, 'client_credentials'], scope: SCOPES },
  // Signs users in and may trade their tokens: what a BFF with an impersonating route is registered as.
  'login-tx': { ...login, client_secret: 'tx-secret', grant_types: [...login.grant_types, TOKEN_EXCHANGE] },
};

export const standing = Object.entries(presets)
  .filter(([, metadata]) => metadata.client_secret || metadata.token_endpoint_auth_method === 'none')
  .map(([client_id, metadata]) => ({ client_id, ...metadata }));
