// Where the provider keeps sessions, grants, tokens and clients: one plain Map outside of the Provider object.
//
// The adapter that oidc-provider brings is a cache of 1,000 entries per Provider: a busy test silently loses sessions,
// and nothing survives a change of signing keys, for which the Provider has to be built anew.

const LEEWAY_SECONDS = 10; // the provider itself decides about expiry; this only bounds memory

const records = new Map();
const idByUid = new Map();
const keysByGrant = new Map();

export class Storage {
  constructor(model) {
    this.model = model;
  }

  // What of a model *clientId* could use now.
  static good(model, clientId) {
    return [...records].filter(([key, { payload, expiresAt }]) => key.startsWith(`${model}:`)
      && payload.clientId === clientId && !payload.consumed && expiresAt > Date.now());
  }

  key(id) {
    return `${this.model}:${id}`;
  }

  async upsert(id, payload, ttl) {
    const key = this.key(id);
    records.set(key, { payload, expiresAt: ttl ? Date.now() + (ttl + LEEWAY_SECONDS) * 1000 : Infinity });
    if (payload.uid) idByUid.set(this.key(payload.uid), id);
    if (payload.grantId && this.model !== 'Grant') {
      if (!keysByGrant.has(payload.grantId)) keysByGrant.set(payload.grantId, new Set());
      keysByGrant.get(payload.grantId).add(key);
    }
  }

  async find(id) {
    const record = records.get(this.key(id));
    if (record && record.expiresAt < Date.now()) records.delete(this.key(id));
    else return record?.payload;
  }

  async findByUid(uid) {
    const id = idByUid.get(this.key(uid));
    return id && this.find(id);
  }

  async findByUserCode() {
    return undefined; // the device flow is not switched on
  }

  async consume(id) {
    const record = records.get(this.key(id));
    if (record) record.payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    records.delete(this.key(id));
  }

  async revokeByGrantId(grantId) {
    for (const key of keysByGrant.get(grantId) ?? []) records.delete(key);
    keysByGrant.delete(grantId);
  }
}
