// Refuses requests for private paths, and marks those that pass.
import { getEnvironment } from "wasi:cli/environment@0.2.10";

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request: Request): Promise<Response> {
  // The environment is `[function.config]` of the chain.
  const { private: paths = "" } = Object.fromEntries(getEnvironment());
  const { pathname, search } = new URL(request.url);
  if (paths.split(" ").some((path) => path !== "" && pathname.startsWith(path))) {
    return new Response("This is private.\n", { status: 403, headers: { "content-type": "text/plain; charset=utf-8" } });
  }
  const { method, body } = request;
  const headers = new Headers(request.headers);
  headers.set("x-guard", "passed");
  // On, through the rest of the chain: that is where the name `upstream` leads.
  return fetch(`http://upstream${pathname}${search}`, { method, headers, body, duplex: "half" });
}
