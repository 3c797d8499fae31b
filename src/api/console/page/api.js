// Asking the server. The one rule: a refusal is told in the server's own words, and silence is told from a refusal.

/** The server refused: what it said is the message. */
export class Refusal extends Error {
  constructor(problem, status) {
    super(problem?.detail ?? `the server answered with ${status}`);
    this.status = status;
  }
}

/** How long an answer may take. */
const PATIENCE = 20_000;

/** The server did not answer. */
export class Silence extends Error {}

async function send(method, path, body, signal) {
  const patience = AbortSignal.timeout(PATIENCE);
  const request = { method, signal: signal ? AbortSignal.any([signal, patience]) : patience, headers: { accept: "application/json" } };
  if (body !== undefined) {
    request.headers["content-type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  let response, answer;
  try {
    response = await fetch(path, request);
    answer = await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    // What a proxy says of a server that is away is no document.
    if (response && !response.ok) throw new Refusal(undefined, response.status);
    throw new Silence("the server does not answer");
  }
  if (!response.ok) throw new Refusal(answer, response.status);
  return answer;
}

/** Reads; parameters without a value are left out. */
export function get(path, parameters, signal) {
  const there = Object.entries(parameters ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(there).toString();
  return send("GET", query ? `${path}?${query}` : path, undefined, signal);
}

export function post(path, body) {
  return send("POST", path, body ?? {});
}

/** A path with what is between its parts escaped. */
export function path(parts, ...values) {
  return parts.reduce((whole, part, at) => whole + encodeURIComponent(values[at - 1]) + part);
}

/** What a read comes to, or nothing where there is no such thing. */
export async function orNothing(answer) {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof Refusal && [404, 409].includes(error.status)) return undefined;
    throw error;
  }
}
