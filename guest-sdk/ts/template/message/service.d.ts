// What a service has beside the types of the web (tsconfig.json, "lib").

declare module "wasi:cli/environment@0.2.10" {
  export function getEnvironment(): [string, string][];
}

declare function addEventListener(kind: "fetch", listener: (event: FetchEvent) => void): void;

interface RequestInit {
  /** The body is still being sent when the response begins. */
  duplex?: "half";
}
