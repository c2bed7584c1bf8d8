// Does what a request's path says, for guest-sdk/tests/messages.toml.

import {
  Counter, End, Exchange, Field, Head, Json, Level, Outcome, Piece, Resumed, Setup, active, healthy, log, onConfigure, onEnded, onRequestBody, onRequestHead,
  onResponseBody, onResponseHead, onResume, random, wall,
} from "message";
export * from "exports/message";

const paths = new Map<u32, string>();
const heads = new Map<u32, Head>();
const ended = new Counter("ended");

onConfigure((setup: Setup, config: Json): string | null => {
  const keys = config.members();
  if (keys.length == 0) return null;
  if (keys[0].key == "say") return keys[0].value.string();
  if (keys[0].key != "counter") return "configured to refuse";
  new Counter(keys[0].value.string());
  return null;
});

function field(head: Head, name: string): string {
  const value = head.field(name);
  return value ? value.toString() : "none";
}

function address(head: Head): string {
  const at = head.client + 12;
  return `${load<u8>(at)}.${load<u8>(at, 1)}.${load<u8>(at, 2)}.${load<u8>(at, 3)}`;
}

function wait(token: i64): Outcome {
  return token < 0 ? Outcome.Reset : Outcome.Wait;
}

onRequestHead((exchange: Exchange, head: Head): Outcome => {
  const path = head.path.toString().split("?")[0];
  paths.set(exchange.number, path);
  if (path == "/look") {
    const told = [
      head.method.toString(), head.path.toString(), head.authority.toString(), head.version.toString(), head.bodyLength.toString(),
      field(head, "X-Test"), field(head, "x-tesT-"), address(head),
    ];
    head.add("X-Look", told.join(" "));
  } else if (path == "/change") {
    head.add("x-ONCE", "0");
    if (!head.set("X-Once", "1") || !head.remove("X-GONE") || head.remove("x-gone") || !head.add("X-More", "2")) return Outcome.Reset;
    head.setPath("/changed?c");
    const names: string[] = ["x-names"];
    for (let place: u32 = 0; place < head.fieldCount; place++) {
      const name = head.fieldName(place);
      if (name.startsWith("x-")) names.push(name.toString());
    }
    names.sort();
    head.set("x-names", names.join(" "));
  } else if (path == "/full") {
    while (head.add("x-long", "long".repeat(100))) {}
    if (head.set("x-long", "l".repeat(1 << 16)) || head.setPath("/".repeat(1 << 16))) return Outcome.Reset;
    return exchange.answer(431, [], "");
  } else if (path == "/answer") {
    return exchange.answer(418, [new Field("x-a", "ä"), new Field("content-type", "text/plain")], "täpot\n");
  } else if (path == "/route") {
    head.set("x-routed", exchange.route(0).toString() + " " + exchange.route(9).toString());
    head.set("x-healthy", (healthy(0) && active(9) == 0).toString());
  } else if (path == "/clock") {
    head.set("x-clock", (wall() > 1600000000000000000).toString() + " " + (random() != random()).toString());
  } else if (path == "/finished") {
    head.set("x-finished", "yes");
    return Outcome.Finished;
  } else if (path == "/add") {
    return wait(exchange.storeAdd("sum", 2, 60000));
  } else if (path == "/store") {
    if (!exchange.storeSet("key", "kept", 0)) return Outcome.Reset;
    return wait(exchange.storeGet("key"));
  } else if (path == "/none") {
    return wait(exchange.storeGet("nothing"));
  } else if (path == "/life") {
    if (!exchange.storeSet("short", "kept", 1)) return Outcome.Reset;
    return wait(exchange.sleep(50000000));
  } else if (path == "/bytes") {
    log(Level.Info, "bytes \ud800");
    if (exchange.answer(200, [new Field("x-a", "\udfff")], "") != Outcome.Reset) return Outcome.Continue;
    return exchange.answer(200, [], "refused");
  } else if (path == "/sleep") {
    return wait(exchange.sleep(1000000));
  } else if (path == "/mark") {
    heads.set(exchange.number, head.kept());
    return wait(exchange.storeGet("nothing"));
  }
  return Outcome.Continue;
});

onResume((exchange: Exchange, resumed: Resumed): Outcome => {
  const path = paths.get(exchange.number);
  if (path == "/mark") {
    heads.get(exchange.number).set("x-mark", (resumed.status == 1).toString());
    return Outcome.Continue;
  }
  if (path == "/add") return exchange.answer(200, [], "sum " + resumed.number.toString());
  if (path == "/store") return exchange.answer(200, [], "value " + resumed.body.toString());
  if (path == "/life" && resumed.status == 0) return wait(exchange.storeGet("short"));
  if ((path == "/none" || path == "/life") && resumed.status == 1) return exchange.answer(200, [], "no such key");
  return Outcome.Continue;
});

function change(exchange: Exchange, piece: Piece): Outcome {
  const path = paths.get(exchange.number);
  if (path == "/upper") {
    for (let i: u32 = 0; i < piece.length; i++) store<u8>(piece.start + i, load<u8>(piece.start + i) & 0xdf);
    piece.changed = true;
  } else if (path == "/longer") {
    const text = piece.toString();
    if ((text.length > 0 && !piece.set(text + ", " + text)) || piece.resize(piece.room + 1)) return Outcome.Reset;
  } else if (path == "/dropped") {
    piece.dropped = true;
  } else if (path == "/hold" && !piece.last) {
    return Outcome.HoldPiece;
  }
  return Outcome.Continue;
}

onRequestBody(change);
onResponseBody(change);

onResponseHead((exchange: Exchange, head: Head): Outcome => {
  const path = paths.get(exchange.number);
  if (path == "/response") {
    head.set("x-server", head.status.toString() + " " + field(head, "X-Server") + " " + head.upstream.toString());
    head.remove("Server");
    head.status = 299;
  } else if (path == "/finished") {
    head.status = 500;
  }
  return Outcome.Continue;
});

onEnded((exchange: Exchange, end: End): void => {
  paths.delete(exchange.number);
  if ((end.how == 0 && end.upstream == 0) || (end.how == 3 && end.upstream == -1)) ended.add(1);
});
