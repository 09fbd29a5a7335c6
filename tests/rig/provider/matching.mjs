// Which request a fault, a tampering or a question of the control plane is about.

const CRITERIA = ['path', 'method', 'grant_type', 'client_id'];

export function matches(wanted, entry) {
  return CRITERIA.every((name) => wanted[name] === undefined || wanted[name] === entry[name]);
}

// The first of *list* that is about *entry*. With `times` it serves that often and is then gone; without, for ever.
export function take(list, entry) {
  const index = list.findIndex((wanted) => matches(wanted, entry));
  if (index < 0) return undefined;
  const wanted = list[index];
  if (wanted.times && (wanted.times -= 1) <= 0) list.splice(index, 1);
  return wanted;
}
