// RFC 8693 for oidc-provider, which leaves this grant to its users: an access token of ours in, one for another API out.
import crypto from 'node:crypto';
import { errors } from 'oidc-provider';
import { TOKEN_EXCHANGE } from './clients.mjs';
import { resourceServer } from './configuration.mjs';

const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const PARAMETERS = ['audience', 'resource', 'scope', 'requested_token_type', 'subject_token', 'subject_token_type', 'actor_token', 'actor_token_type'];

export function registerTokenExchange(provider, jwks) {
  provider.registerGrantType(TOKEN_EXCHANGE, (ctx) => exchange(provider, jwks, ctx), PARAMETERS, ['audience', 'resource']);
}

async function exchange(provider, jwks, ctx) {
  const { params, client } = ctx.oidc;
  if (!params.subject_token || params.subject_token_type !== ACCESS_TOKEN) throw new errors.InvalidRequest('an access token as subject_token is required');
  if ((params.requested_token_type ?? ACCESS_TOKEN) !== ACCESS_TOKEN) throw new errors.InvalidRequest('unsupported requested_token_type');
  const indicator = params.resource ?? params.audience;
  if (!indicator) throw new errors.InvalidRequest('resource or audience is required');

  const subject = (await storedSubject(provider, params.subject_token)) ?? signedSubject(jwks, params.subject_token);
  if (!subject) throw new errors.InvalidGrant('subject_token is invalid or expired');

  const info = resourceServer(ctx, indicator);
  const token = new provider.AccessToken({ accountId: subject.sub, client, grantId: subject.grantId, gty: TOKEN_EXCHANGE });
  token.resourceServer = new provider.ResourceServer(indicator, info);
  const allowed = info.scope.split(' ');
  token.scope = (params.scope ?? subject.scope ?? '').split(' ').filter((scope) => allowed.includes(scope)).join(' ') || undefined;
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: ACCESS_TOKEN,
    token_type: 'Bearer',
    expires_in: token.expiration,
    scope: token.scope,
  };
}

async function storedSubject(provider, value) {
  const token = await provider.AccessToken.find(value);
  return token && { sub: token.accountId, scope: token.scope, grantId: token.grantId };
}

// Access tokens in JWT form are not stored: they are checked by our own key.
function signedSubject(jwks, token) {
  try {
    const [header, payload, signature] = token.split('.');
    const { kid, alg } = JSON.parse(Buffer.from(header, 'base64url'));
    const key = crypto.createPublicKey({ key: jwks.keys.find((jwk) => jwk.kid === kid), format: 'jwk' });
    const genuine = crypto.verify(
      alg.startsWith('Ed') ? null : 'sha256',
      Buffer.from(`${header}.${payload}`),
      { key, dsaEncoding: 'ieee-p1363' },
      Buffer.from(signature, 'base64url'),
    );
    const claims = JSON.parse(Buffer.from(payload, 'base64url'));
    return genuine && claims.exp > Date.now() / 1000 ? { sub: claims.sub, scope: claims.scope } : undefined;
  } catch {
    return undefined;
  }
}
