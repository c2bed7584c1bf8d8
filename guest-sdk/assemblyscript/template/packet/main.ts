// Drops TCP and UDP packets to blocked ports.

import { Burst, Counter, Frame, Json, NO_PORT, Setup, Verdict, headers, onConfigure, onProcess, parse } from "weir";
export { packet_configure, packet_process, packet_tick, cabi_realloc } from "weir";

const blocked = new StaticArray<bool>(65536);
const count = new Counter("blocked");

onConfigure((setup: Setup, config: Json): string | null => {
  let there = false;
  const keys = config.members();
  for (let i = 0; i < keys.length; i++) {
    if (keys[i].key != "blocked") return "unknown key " + keys[i].key + "; allowed: blocked";
    there = keys[i].value.isList;
    const ports = keys[i].value.members();
    for (let j = 0; j < ports.length; j++) {
      const port = ports[j].value.integer(1, 65535);
      if (port < 0) return "blocked: allowed are ports from 1 to 65535";
      blocked[<i32>port] = true;
    }
  }
  return there ? null : "blocked: a list of ports is needed";
});

onProcess((burst: Burst): void => {
  for (let i: u32 = 0; i < burst.count; i++) {
    const frame = parse(burst.start(i), burst.length(i));
    // A port could be hidden in what cannot be read, such as a tiny first fragment (RFC 1858).
    if (frame == Frame.CutShort) burst.setVerdict(i, Verdict.drop(2));
    // What is no IP goes on: all verdicts are Next before.
    if (frame < Frame.Ipv4) continue;
    // What is neither TCP nor UDP has no port.
    const port = headers.destinationPort;
    if (port != NO_PORT && unchecked(blocked[port])) {
      burst.setVerdict(i, Verdict.drop(1));
      count.add(1);
    }
  }
});
