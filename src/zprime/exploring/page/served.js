// What the page asks of the server on this machine.
export async function ask(name, given = {}) {
  const query = Object.keys(given).length ? `?${new URLSearchParams(given)}` : "";
  let answer;
  try { answer = await fetch(`${name}${query}`); } catch { throw new Error("The command `zprime explore` has ended; start it again."); }
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}
export const decode = (z, source) => ask("decode", { z: z.map(v => +v.toPrecision(5)).join(","), source });
export const open = async () => {};
