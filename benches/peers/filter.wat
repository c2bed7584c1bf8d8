;; A filter for Proxy-Wasm (ABI 0.2.1): reads a field of the request, and adds one to the request and one to the
;; response. By hand, so that nothing of a language's runtime is measured.
(module
  (import "env" "proxy_get_header_map_value"
    (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value"
    (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (data (i32.const 16) "user-agentx-filter1")
  ;; What the host puts into the module's memory lies here; each event begins anew.
  (global $free (mut i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param $bytes i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    (global.set $free (i32.add (global.get $free)
      (i32.and (i32.add (local.get $bytes) (i32.const 15)) (i32.const -16))))
    (if (i32.gt_u (global.get $free) (i32.const 262144)) (then unreachable))
    (local.get $at))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (global.set $free (i32.const 4096))
    (drop (call $get (i32.const 0) (i32.const 16) (i32.const 10) (i32.const 0) (i32.const 4)))
    (drop (call $add (i32.const 0) (i32.const 26) (i32.const 8) (i32.const 34) (i32.const 1)))
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (drop (call $add (i32.const 2) (i32.const 26) (i32.const 8) (i32.const 34) (i32.const 1)))
    (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_delete") (param i32)))
