;; Refuses requests for private paths, and marks those that pass.
;;
;; Memory: 0x0000 what `configure` answers, 0x0010 what the host answers, 0x0020 the field of an answer, 0x0040 texts, 0x1000 the
;; private paths (address and length, 512 of them), 0x10000 on: what the host hands over, the config among it.
(module
  (import "weir:net/host@0.1.0" "attach-window" (func $attach-window (param i32 i32) (result i32)))
  (import "weir:net/host@0.1.0" "counter-add" (func $counter-add (param i32 i32 i64)))
  ;; Exchange, status, fields and how many, body and its bytes, where the answer is written.
  (import "weir:net/exchange@0.1.0" "answer-copy" (func $answer-copy (param i32 i32 i32 i32 i32 i32 i32)))
  (memory (export "memory") 2)
  ;; A field: name and value, each an address and a length.
  (data (i32.const 0x20) "\c0\00\00\00\0c\00\00\00\d0\00\00\00\19\00\00\00")
  (data (i32.const 0x40) "{\22private\22:[")                 ;; 12 bytes, how the config begins
  (data (i32.const 0x50) "private: a list of paths that begin with / is needed, without \5c, and nothing else")
  (data (i32.const 0xb0) "x-guardpassed")                    ;; 7 and 6 bytes
  (data (i32.const 0xc0) "content-type")
  (data (i32.const 0xd0) "text/plain; charset=utf-8")
  (data (i32.const 0xf0) "This is private.\0a")              ;; 17 bytes
  (data (i32.const 0x110) "The request's head is too large.\0a")   ;; 33 bytes
  (data (i32.const 0x140) "refused")
  (global $top (mut i32) (i32.const 0x10000))
  (global $window (mut i32) (i32.const 0))
  ;; Behind the last path of the table.
  (global $paths-end (mut i32) (i32.const 0x1000))

  ;; Room for what the host hands over; never given back, as that is only in `configure`.
  (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $top) (i32.shl (memory.size) (i32.const 16))) (then
      (if (i32.eq (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1))) (i32.const -1))
        (then (unreachable)))))
    (local.get $at))

  ;; Whether so many bytes here and there are the same.
  (func $same (param $a i32) (param $b i32) (param $length i32) (result i32)
    (local $i i32)
    (block $end
      (loop $bytes
        (br_if $end (i32.ge_u (local.get $i) (local.get $length)))
        (if (i32.ne (i32.load8_u (i32.add (local.get $a) (local.get $i))) (i32.load8_u (i32.add (local.get $b) (local.get $i))))
          (then (return (i32.const 0))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $bytes)))
    (i32.const 1))

  ;; Reads `{"private":["/admin","/internal"]}`. 1 if it is that. The paths stay where they are.
  (func $read-config (param $at i32) (param $length i32) (result i32)
    (local $end i32) (local $start i32) (local $byte i32)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (if (i32.lt_u (local.get $length) (i32.const 14)) (then (return (i32.const 0))))
    (if (i32.eqz (call $same (local.get $at) (i32.const 0x40) (i32.const 12))) (then (return (i32.const 0))))
    (local.set $at (i32.add (local.get $at) (i32.const 12)))
    ;; `]}` at once: an empty list.
    (if (i32.eq (i32.load16_u (local.get $at)) (i32.const 0x7d5d))
      (then (return (i32.eq (i32.add (local.get $at) (i32.const 2)) (local.get $end)))))
    (loop $paths
      ;; `"/`
      (if (i32.or (i32.ne (i32.load16_u (local.get $at)) (i32.const 0x2f22))
            (i32.eq (global.get $paths-end) (i32.const 0x2000)))
        (then (return (i32.const 0))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (local.set $start (local.get $at))
      (loop $path
        (local.set $byte (i32.load8_u (local.get $at)))
        ;; What is written with a `\` is left to those who read all of JSON.
        (if (i32.or (i32.eq (local.get $byte) (i32.const 0x5c)) (i32.ge_u (local.get $at) (local.get $end)))
          (then (return (i32.const 0))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $path (i32.ne (local.get $byte) (i32.const 0x22))))
      (i32.store (global.get $paths-end) (local.get $start))
      (i32.store offset=4 (global.get $paths-end) (i32.sub (i32.sub (local.get $at) (local.get $start)) (i32.const 1)))
      (global.set $paths-end (i32.add (global.get $paths-end) (i32.const 8)))
      ;; A comma: the next one.
      (local.set $byte (i32.load8_u (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $paths (i32.eq (local.get $byte) (i32.const 0x2c))))
    (i32.and
      (i32.eq (i32.load16_u (i32.sub (local.get $at) (i32.const 1))) (i32.const 0x7d5d))
      (i32.eq (i32.add (local.get $at) (i32.const 1)) (local.get $end))))

  ;; The fields of `setup` one by one, as the canonical ABI passes them; the last two are the config.
  (func (export "weir:net/message@0.1.0#configure")
    (param $window-bytes i32) (param $window-align i32) (param $room-bytes i32) (param $state-bytes i32) (param $state-align i32)
    (param $state-kept i32) (param $seed i64) (param $ports i32) (param $port-count i32) (param $functions i32)
    (param $function-count i32) (param $position i32) (param $config i32) (param $config-length i32) (result i32)
    (local $region i32) (local $bytes i32)
    ;; The window: fresh pages, which begin at a multiple of 65,536.
    (local.set $bytes (i32.add (local.get $window-bytes) (local.get $window-align)))
    (local.set $region (i32.shl
      (memory.grow (i32.shr_u (i32.add (local.get $bytes) (i32.const 0xffff)) (i32.const 16))) (i32.const 16)))
    (if (i32.eq (local.get $region) (i32.const 0xffff0000)) (then (unreachable)))
    (global.set $window (i32.add (local.get $region) (call $attach-window (local.get $region) (local.get $bytes))))
    ;; A result: 0 and the events that are wanted, here the heads of requests; or 1 and a text.
    (if (call $read-config (local.get $config) (local.get $config-length))
      (then
        (i32.store (i32.const 0) (i32.const 0))
        (i32.store (i32.const 4) (i32.const 1)))
      (else
        (i32.store (i32.const 0) (i32.const 1))
        (i32.store (i32.const 4) (i32.const 0x50))
        (i32.store (i32.const 8) (i32.const 81))))
    (i32.const 0))

  ;; Answers the exchange, and is the event's outcome: 1, answered; or 2, reset, if the host refuses.
  (func $answer (param $exchange i32) (param $status i32) (param $fields i32) (param $body i32) (param $length i32) (result i64)
    (call $answer-copy (local.get $exchange) (local.get $status) (i32.const 0x20) (local.get $fields)
      (local.get $body) (local.get $length) (i32.const 0x10))
    (select (i64.const 1) (i64.const 2) (i32.eqz (i32.load8_u (i32.const 0x10)))))

  ;; Makes `x-guard: passed` the only field of its name. 0 if there is no room.
  (func $mark (param $head i32) (result i32)
    (local $entry i32) (local $table-end i32) (local $end i32)
    (local.set $entry (i32.add (local.get $head) (i32.const 72)))
    (local.set $table-end (i32.add (local.get $entry) (i32.shl (i32.load16_u offset=2 (local.get $head)) (i32.const 3))))
    ;; Fields of this name are deleted: their names have no length any more.
    (block $end-of-table
      (loop $fields
        (br_if $end-of-table (i32.ge_u (local.get $entry) (local.get $table-end)))
        (if (i32.eq (i32.load16_u offset=2 (local.get $entry)) (i32.const 7)) (then
          (if (call $same (i32.add (local.get $head) (i32.load16_u (local.get $entry))) (i32.const 0xb0) (i32.const 7))
            (then (i32.store16 offset=2 (local.get $entry) (i32.const 0))))))
        (local.set $entry (i32.add (local.get $entry) (i32.const 8)))
        (br $fields)))
    ;; A place in the table, and 13 bytes behind the strings; at 10 is the last byte that the head may use.
    (local.set $end (i32.load16_u (local.get $head)))
    (if (i32.or
          (i32.ge_u (i32.load16_u offset=2 (local.get $head)) (i32.load16_u offset=4 (local.get $head)))
          (i32.gt_u (i32.add (local.get $end) (i32.const 13)) (i32.load16_u offset=10 (local.get $head))))
      (then (return (i32.const 0))))
    (memory.copy (i32.add (local.get $head) (local.get $end)) (i32.const 0xb0) (i32.const 13))
    (i32.store16 (local.get $table-end) (local.get $end))
    (i32.store16 offset=2 (local.get $table-end) (i32.const 7))
    (i32.store16 offset=4 (local.get $table-end) (i32.add (local.get $end) (i32.const 7)))
    (i32.store16 offset=6 (local.get $table-end) (i32.const 6))
    (i32.store16 (local.get $head) (i32.add (local.get $end) (i32.const 13)))
    (i32.store16 offset=2 (local.get $head) (i32.add (i32.load16_u offset=2 (local.get $head)) (i32.const 1)))
    (i32.const 1))

  ;; Whether servers may read the path as another one: it is as the client wrote it, and to many `/%61`, `//a` and `/./a` are `/a`.
  (func $unclear (param $at i32) (param $length i32) (result i32)
    (local $end i32) (local $byte i32) (local $before i32)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (block $end-of-path
      (loop $bytes
        (br_if $end-of-path (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $byte (i32.load8_u (local.get $at)))
        ;; `?`: what follows is the query.
        (br_if $end-of-path (i32.eq (local.get $byte) (i32.const 0x3f)))
        ;; `%`, `\`, `;`, and `/` or `.` behind `/`.
        (if (i32.or (i32.eq (local.get $byte) (i32.const 0x25))
              (i32.or (i32.eq (local.get $byte) (i32.const 0x5c)) (i32.eq (local.get $byte) (i32.const 0x3b))))
          (then (return (i32.const 1))))
        (if (i32.and (i32.eq (local.get $before) (i32.const 0x2f))
              (i32.or (i32.eq (local.get $byte) (i32.const 0x2f)) (i32.eq (local.get $byte) (i32.const 0x2e))))
          (then (return (i32.const 1))))
        (local.set $before (local.get $byte))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $bytes)))
    (i32.const 0))

  ;; Answers that it is private.
  (func $refuse (param $exchange i32) (result i64)
    (call $counter-add (i32.const 0x140) (i32.const 7) (i64.const 1))
    (call $answer (local.get $exchange) (i32.const 403) (i32.const 1) (i32.const 0xf0) (i32.const 17)))

  (func (export "weir:net/message@0.1.0#request-head") (param $exchange i32) (param $offset i32) (result i64)
    (local $head i32) (local $entry i32) (local $path i32) (local $length i32)
    (local.set $head (i32.add (global.get $window) (local.get $offset)))
    (local.set $path (i32.add (local.get $head) (i32.load16_u offset=16 (local.get $head))))
    (local.set $length (i32.load16_u offset=18 (local.get $head)))
    (if (call $unclear (local.get $path) (local.get $length)) (then (return (call $refuse (local.get $exchange)))))
    (local.set $entry (i32.const 0x1000))
    (block $end-of-paths
      (loop $paths
        (br_if $end-of-paths (i32.ge_u (local.get $entry) (global.get $paths-end)))
        (if (i32.ge_u (local.get $length) (i32.load offset=4 (local.get $entry))) (then
          (if (call $same (local.get $path) (i32.load (local.get $entry)) (i32.load offset=4 (local.get $entry)))
            (then (return (call $refuse (local.get $exchange)))))))
        (local.set $entry (i32.add (local.get $entry) (i32.const 8)))
        (br $paths)))
    (if (i32.eqz (call $mark (local.get $head)))
      (then (return (call $answer (local.get $exchange) (i32.const 431) (i32.const 0) (i32.const 0x110) (i32.const 33)))))
    ;; Continue, and the head was changed.
    (i64.const 256))

  ;; Events that are not wanted; a component has to have them.
  (func (export "weir:net/message@0.1.0#request-body") (param i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#response-head") (param i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#response-body") (param i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#resume") (param i32 i32 i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "weir:net/message@0.1.0#ended") (param i32 i32 i32 i64))
  (func (export "weir:net/message@0.1.0#tick") (param i64))
)
