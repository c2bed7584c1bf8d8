// Stands for the host in tests/sdk.js.
export default { log() {}, now: () => 0, setTimer() {}, counterAdd() {}, gaugeSet() {} };
