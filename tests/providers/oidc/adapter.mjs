// Keeps what the provider stores in one Map. The provider's own memory adapter forgets all but the newest
// thousand entries, which a test of many tokens would notice.

const grantOf = (payload) => payload?.grantId;

/** Makes the adapter factory that `Provider` takes; everything made by one factory shares one store. */
export function mapAdapter() {
  const store = new Map();
  return (model) => new MapAdapter(model, store);
}

class MapAdapter {
  #model;
  #store;

  constructor(model, store) {
    this.#model = model;
    this.#store = store;
  }

  #key(id) {
    return `${this.#model}:${id}`;
  }

  #where(matches) {
    for (const [key, payload] of this.#store) {
      if (key.startsWith(`${this.#model}:`) && matches(payload)) return payload;
    }
    return undefined;
  }

  // Expiry is the models' business: they compare `exp` with the time whenever they find something.
  async upsert(id, payload) {
    this.#store.set(this.#key(id), payload);
  }

  async find(id) {
    return this.#store.get(this.#key(id));
  }

  async findByUid(uid) {
    return this.#where((payload) => payload.uid === uid);
  }

  async findByUserCode(userCode) {
    return this.#where((payload) => payload.userCode === userCode);
  }

  async consume(id) {
    this.#store.get(this.#key(id)).consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    this.#store.delete(this.#key(id));
  }

  async revokeByGrantId(grantId) {
    for (const [key, payload] of this.#store) {
      if (grantOf(payload) === grantId) this.#store.delete(key);
    }
  }
}
