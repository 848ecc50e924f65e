/** Files of the page's own server. */

/** One that did not come; the message says which and what to do. */
export class ConnectionError extends Error {}

export async function fetched(url: string): Promise<Uint8Array<ArrayBuffer>> {
  const name = url.split("/").at(-1);
  let response: Response;
  try {
    response = await fetch(url);
  } catch {
    throw new ConnectionError(
      `${name} did not arrive. Is the connection there? Then try again.`,
    );
  }
  if (!response.ok) {
    throw new ConnectionError(
      `The server has no ${name} (${response.status}): build the page again.`,
    );
  }
  return new Uint8Array(await response.arrayBuffer());
}
