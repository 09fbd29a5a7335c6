// The OpenID provider of the tests: the certified npm package oidc-provider, with a control plane beside it.
//
//   node server.mjs      prints {"ready": true, "issuer": ...} as one line once it serves; with --exit-with-stdin it ends
//                        when whoever started it ends
//     OP_PORT     port on 127.0.0.1 (default 0: any free one)
//     OP_ISSUER   issuer identifier (default http://127.0.0.1:PORT)
//     OP_CLIENTS  a JSON file with more clients: [{"client_id": ..., ...}], beside those of clients.mjs
//
// The control plane, never a part of OpenID Connect, speaks JSON:
//   GET    /_ctl/log            every request so far, see log.mjs; DELETE empties it
//   POST   /_ctl/arrived        {"path", "grant_type", "client_id", "count", "seconds"} waits for such requests
//   GET    /_ctl/events         what the provider reports (grant.revoked, backchannel.error ...); DELETE empties it
//   POST   /_ctl/clients        {"preset", "client_id", ...metadata} registers a client, see clients.mjs
//   POST   /_ctl/config         turns knobs, see configuration.mjs
//   POST   /_ctl/fault          see faults.mjs; DELETE removes them; DELETE /_ctl/hold releases what is held
//   POST   /_ctl/tamper         see tampering.mjs; DELETE removes all
//   POST   /_ctl/reset          knobs, faults, holds and tamperings back to how it started; clients and sessions stay
//   POST   /_ctl/token          {"access_token"} whose it is: {"sub", "client_id", "scope", "grant_id", "expires_at"} or {}
//   POST   /_ctl/refresh_tokens {"client_id"} how many of its refresh tokens would be accepted now: {"good"}
//   POST   /_ctl/rotate_keys    new signing keys; the old ones leave the JWKS, or stay with {"keep": true}
//   GET    /_ctl/signing_key    {"kid", "pem"} what RS256 signatures are made with, for tokens that no provider makes
//   POST   /_ctl/backchannel    {"client_id", "sub", "sid"} a back-channel logout that starts here
//   POST   /_ctl/revoke_grant   {"grant_id"} what an administrator does when somebody leaves
import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import { Provider } from 'oidc-provider';
import { presets } from './clients.mjs';
import { configuration, defaultKnobs, freshKeys, knobs } from './configuration.mjs';
import { clear, fail, faults, release } from './faults.mjs';
import { arrived, log, record } from './log.mjs';
import { Storage } from './storage.mjs';
import { tamper, tampers } from './tampering.mjs';
import { registerTokenExchange } from './token_exchange.mjs';

const REPORTED = [
  'authorization.error', 'backchannel.error', 'backchannel.success', 'discovery.error', 'end_session.error', 'end_session.success',
  'grant.error', 'grant.revoked', 'grant.success', 'pushed_authorization_request.error', 'refresh_token.consumed',
  'refresh_token.destroyed', 'revocation.error', 'server_error', 'userinfo.error',
];

const extraClients = process.env.OP_CLIENTS ? JSON.parse(fs.readFileSync(process.env.OP_CLIENTS)) : [];
const events = [];
let jwks = { keys: freshKeys('1') };
let issuer = process.env.OP_ISSUER;
let provider;
let serveProvider;

// Built anew when keys or id_token_claims change; everything that was issued lives in storage.mjs.
function build() {
  provider = new Provider(issuer, configuration(jwks, extraClients));
  registerTokenExchange(provider, jwks);
  for (const name of REPORTED) provider.on(name, (...args) => report(name, args));
  serveProvider = provider.callback();
}

function report(name, args) {
  const error = args.find((arg) => arg instanceof Error);
  const client = args.find((arg) => arg?.clientId)?.clientId ?? args[0]?.oidc?.client?.clientId;
  const grant = args.find((arg) => typeof arg === 'string');
  events.push({ name, at: Date.now() / 1000, client_id: client, grant_id: grant, error: error && [error.message, error.error_description, error.error_detail].filter(Boolean).join(': ') });
}

const control = {
  'GET log': () => log,
  'DELETE log': () => { log.length = 0; },
  'POST arrived': async ({ count = 1, seconds = 10, ...wanted }) => ({ arrived: await arrived(wanted, count, seconds) }),
  'GET events': () => events,
  'DELETE events': () => { events.length = 0; },
  'POST clients': async ({ preset, ...metadata }) => {
    const client = { ...presets[preset], ...metadata };
    const registered = new Storage('Client');
    await registered.upsert(client.client_id, client);
    try {
      await provider.Client.find(client.client_id); // validates
    } catch (error) {
      await registered.destroy(client.client_id);
      throw error;
    }
    return client;
  },
  'POST config': (changes) => {
    Object.assign(knobs, changes);
    if ('id_token_claims' in changes) build();
    return knobs;
  },
  'POST fault': (fault) => { faults.push(fault); },
  'DELETE fault': clear,
  'DELETE hold': release,
  'POST tamper': (wanted) => { tampers.push(wanted); },
  'DELETE tamper': () => { tampers.length = 0; },
  'POST reset': () => {
    const rebuild = knobs.id_token_claims !== defaultKnobs.id_token_claims;
    Object.assign(knobs, defaultKnobs);
    clear();
    tampers.length = 0;
    release();
    if (rebuild) build();
  },
  'POST token': async ({ access_token }) => {
    const token = (await provider.AccessToken.find(access_token)) ?? (await provider.ClientCredentials.find(access_token));
    return token ? { sub: token.accountId, client_id: token.clientId, scope: token.scope, grant_id: token.grantId, expires_at: token.exp } : {};
  },
  'POST refresh_tokens': ({ client_id }) => ({ good: Storage.good('RefreshToken', client_id).length }),
  'POST rotate_keys': ({ keep }) => {
    const fresh = freshKeys(String(Date.now()));
    jwks = { keys: keep ? [...fresh, ...jwks.keys] : fresh };
    build();
    return { kids: jwks.keys.map(({ kid }) => kid) };
  },
  'GET signing_key': () => {
    const key = jwks.keys.find(({ kty }) => kty === 'RSA');
    return { kid: key.kid, pem: crypto.createPrivateKey({ key, format: 'jwk' }).export({ type: 'pkcs8', format: 'pem' }) };
  },
  'POST backchannel': async ({ client_id, sub, sid }) => {
    const client = await provider.Client.find(client_id);
    try {
      await client.backchannelLogout(sub, sid);
      return { delivered: true };
    } catch (error) {
      return { delivered: false, error: error.message };
    }
  },
  'POST revoke_grant': async ({ grant_id }) => {
    for (const model of ['AccessToken', 'RefreshToken', 'AuthorizationCode']) await provider[model].revokeByGrantId(grant_id);
    const grant = await provider.Grant.find(grant_id);
    await grant?.destroy();
    return { found: Boolean(grant) };
  },
};

async function serveControl(request, response, url) {
  const serve = control[`${request.method} ${url.pathname.slice('/_ctl/'.length)}`];
  let [status, answer] = [404, { error: 'no such control' }];
  if (serve) {
    try {
      [status, answer] = [200, (await serve(JSON.parse((await body(request)) || '{}'))) ?? {}];
    } catch (error) {
      [status, answer] = [400, { error: [error.message, error.error_description].filter(Boolean).join(': ') }];
    }
  }
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(answer));
}

async function serve(request, response) {
  const url = new URL(request.url, issuer);
  if (url.pathname.startsWith('/_ctl/')) return serveControl(request, response, url);

  // Read here and handed on: oidc-provider takes a body that is parsed already.
  const posted = (request.headers['content-type'] ?? '').startsWith('application/x-www-form-urlencoded');
  if (posted) request.body = parsedForm(await body(request));
  const entry = record(request, url, request.body);
  response.on('finish', () => { entry.status = response.statusCode; });

  if (await fail(request, response, entry)) return undefined;
  if (tampers.length) tamper(response, entry, { issuer, jwks });
  if (knobs.auto_login && request.method === 'GET' && url.pathname.startsWith('/interaction/')) return answerInteraction(request, response);
  return serveProvider(request, response);
}

// The page that nobody sees: the user is signed in and agrees to everything.
async function answerInteraction(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') return provider.interactionFinished(request, response, { login: { accountId: knobs.auto_login } }, { mergeWithLastSubmission: false });

  const grant = (grantId && await provider.Grant.find(grantId)) || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope, missingOIDCClaims, missingResourceScopes } = prompt.details;
  if (missingOIDCScope) grant.addOIDCScope(missingOIDCScope.join(' '));
  if (missingOIDCClaims) grant.addOIDCClaims(missingOIDCClaims);
  for (const [indicator, scopes] of Object.entries(missingResourceScopes ?? {})) grant.addResourceScope(indicator, scopes.join(' '));
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
}

async function body(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

function parsedForm(text) {
  const form = {};
  for (const [name, value] of new URLSearchParams(text)) form[name] = name in form ? [form[name], value].flat() : value;
  return form;
}

const server = http.createServer({ keepAliveTimeout: 65_000 }, (request, response) => {
  serve(request, response).catch((error) => {
    console.error(error);
    request.socket.destroy();
  });
});
server.listen(Number(process.env.OP_PORT ?? 0), '127.0.0.1', () => {
  issuer ??= `http://127.0.0.1:${server.address().port}`;
  build();
  console.log(JSON.stringify({ ready: true, issuer }));
});
process.on('SIGTERM', () => process.exit(0));
if (process.argv.includes('--exit-with-stdin')) process.stdin.on('end', () => process.exit(0)).resume();
