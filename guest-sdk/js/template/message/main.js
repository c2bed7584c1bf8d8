// Refuses requests for private paths, and marks those that pass.
import { getEnvironment } from "wasi:cli/environment@0.2.10";

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

// What servers may read as another path: to many `/%61` and `//a` are `/a`. `.` and `..` are gone, because `new URL` resolves them.
const unclear = /[%\\;]|\/\//;

async function answer(request) {
  // The environment is `[function.config]` of the chain.
  const { private: paths = "" } = Object.fromEntries(getEnvironment());
  const { pathname, search } = new URL(request.url);
  if (unclear.test(pathname) || paths.split(" ").some((path) => path !== "" && pathname.startsWith(path))) {
    return new Response("This is private.\n", { status: 403, headers: { "content-type": "text/plain; charset=utf-8" } });
  }
  const { method, body } = request;
  const headers = new Headers(request.headers);
  headers.set("x-guard", "passed");
  // On, through the rest of the chain: that is where the name `upstream` leads.
  return fetch(`http://upstream${pathname}${search}`, { method, headers, body, duplex: "half" });
}
