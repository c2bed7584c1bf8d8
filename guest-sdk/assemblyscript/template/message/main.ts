// Refuses requests for private paths, and marks those that pass.

import { Counter, Exchange, Field, Head, Json, Outcome, Setup, Text, onConfigure, onRequestHead } from "message";
export * from "exports/message";

// Beginnings of paths that are refused.
const privatePaths: string[] = [];
const refused = new Counter("refused");

onConfigure((setup: Setup, config: Json): string | null => {
  let there = false;
  const keys = config.members();
  for (let i = 0; i < keys.length; i++) {
    if (keys[i].key != "private") return "unknown key " + keys[i].key + "; allowed: private";
    there = keys[i].value.isList;
    const paths = keys[i].value.members();
    for (let j = 0; j < paths.length; j++) {
      const path = paths[j].value.string();
      if (!path.startsWith("/")) return "private: a path must begin with /";
      privatePaths.push(path);
    }
  }
  return there ? null : "private: a list of paths is needed";
});

// Whether servers may read the path as another one: it is as the client wrote it, and to many `/%61`, `//a` and `/./a` are `/a`.
function isUnclear(target: Text): bool {
  let before: u32 = 0;
  for (let i: u32 = 0; i < target.length; i++) {
    const byte = <u32>load<u8>(target.start + i);
    // `?`: what follows is the query.
    if (byte == 0x3f) return false;
    // `%`, `\`, `;`, and `/` or `.` behind `/`.
    if (byte == 0x25 || byte == 0x5c || byte == 0x3b || (before == 0x2f && (byte == 0x2f || byte == 0x2e))) return true;
    before = byte;
  }
  return false;
}

onRequestHead((exchange: Exchange, head: Head): Outcome => {
  const path = head.path;
  let isPrivate = isUnclear(path);
  for (let i = 0; i < privatePaths.length; i++) isPrivate = isPrivate || path.startsWith(privatePaths[i]);
  if (isPrivate) {
    refused.add(1);
    return exchange.answer(403, [new Field("content-type", "text/plain; charset=utf-8")], "This is private.\n");
  }
  if (!head.set("x-guard", "passed")) return exchange.answer(431, [], "The request's head is too large.\n");
  return Outcome.Continue;
});
