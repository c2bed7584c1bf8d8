// A stateless firewall: the function that every language's SDK has as an example. What it does is specified in
// guest-sdk/packet-filter/README.md.

import { Burst, Frame, Json, Setup, Verdict, headers, onConfigure, onProcess, parse } from "weir";
import { allowV4, allowV6, read } from "./rules";
export { packet_configure, packet_process, packet_tick, cabi_realloc } from "weir";

onConfigure((setup: Setup, config: Json): string | null => read(config));

// @ts-ignore: decorator
@inline function allowed(packet: usize, length: u32): bool {
  switch (parse(packet, length)) {
    case Frame.NotIp:
      return true;
    case Frame.CutShort:
      return false;
    case Frame.Ipv4:
      return allowV4(packet + headers.l3 + 12);
    default:
      return allowV6(packet + headers.l3 + 8);
  }
}

onProcess((burst: Burst): void => {
  for (let i: u32 = 0; i < burst.count; i++) {
    if (!allowed(burst.start(i), burst.length(i))) burst.setVerdict(i, Verdict.drop(1));
  }
});
