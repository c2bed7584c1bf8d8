;; The chain runner: a trusted sibling of the functions that calls them in order, applies their
;; verdicts and compacts the descriptor vector between them. `runner.rs` fills in what stands in
;; braces: addresses (from weir-layout and control.rs) and the parts that depend on the functions.
;;
;; Its linear memory: 0x00000 scratch for lists that copying functions return, 0x20000 the control
;; area, 0x30000 the window's burst area, then (only with functions without a window) room to lay a burst out
;; for a function, and the whole window.
(component
{instance-imports}
  (import "host" (instance $host
    (export "attach" (func (param "region" (list u8))))
    (export "attach-rooms" (func (param "region" (list u8)) (result u32)))
    (export "clone" (func (param "offset" u32) (param "length" u32) (param "port" u32)
      (result u32)))
    (export "look" (func (param "place" u32) (param "count" u32) (param "done" bool)))
    (export "next" (func (result u64)))))

  (core module $memory-module
    (memory (export "memory") 4)
    (global $top (mut i32) (i32.const 0x100))
    (func (export "rewind") (global.set $top (i32.const 0x100)))
    ;; Room for one list that a copying function returns; more than that is a trap, which counts as
    ;; the fault of the function that is running.
    (func (export "realloc")
      (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $start i32)
      (local.set $start (i32.and
        (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
      (if (i32.gt_u (local.get $size) (i32.sub (i32.const 0x20000) (local.get $start)))
        (then unreachable))
      (global.set $top (i32.add (local.get $start) (local.get $size)))
      (local.get $start)))
  (core instance $memory (instantiate $memory-module))
  (alias core export $memory "memory" (core memory $mem))
  (alias core export $memory "realloc" (core func $realloc))

  (core func $attach (canon lower (func $host "attach") (memory $mem)))
  (core func $attach-rooms (canon lower (func $host "attach-rooms") (memory $mem)))
  (core func $clone (canon lower (func $host "clone")))
  (core func $look (canon lower (func $host "look")))
  (core func $next (canon lower (func $host "next")))
{lowered-functions}

  (core module $runner-module
    (import "memory" "memory" (memory 4))
    (import "memory" "rewind" (func $rewind))
    (import "host" "attach" (func $attach (param i32 i32)))
    (import "host" "attach-rooms" (func $attach-rooms (param i32 i32) (result i32)))
    (import "host" "clone" (func $clone (param i32 i32 i32) (result i32)))
    (import "host" "look" (func $look (param i32 i32 i32)))
    (import "host" "next" (func $next (result i64)))
{function-imports}

    ;; Address of the first room (window offset 0x10000).
    (global $rooms (mut i32) (i32.const 0))
    ;; Where a burst is laid out for a function that gets it by value, and how many bytes it has.
    (global $staging (mut i32) (i32.const 0))
    (global $staged (mut i32) (i32.const 0))

    ;; Hands control and burst area to the host, and grows room for the window if it is needed.
    (func (export "attach") (param $window-bytes i32) (param $align i32)
      (local $region i32)
      (call $attach (i32.const {CONTROL}) (i32.const 0x20000))
      {staging}
      (if (local.get $window-bytes) (then
        (local.set $region (i32.shl
          (memory.grow (i32.shr_u (i32.add (local.get $window-bytes) (local.get $align)) (i32.const 16)))
          (i32.const 16)))
        (global.set $rooms (i32.add
          (i32.add (local.get $region) (i32.const 0x10000))
          (call $attach-rooms (local.get $region)
            (i32.add (local.get $window-bytes) (local.get $align))))))))

    ;; Appends a record to the done list.
    (func $finish (param $origin i32) (param $function i32) (param $verdict i32)
      (param $descriptor i64)
      (local $at i32) (local $count i32)
      (local.set $count (i32.load (i32.const {DONE})))
      (local.set $at (i32.mul (local.get $count) (i32.const 24)))
      (i32.store offset={DONE-LIST} (local.get $at) (local.get $origin))
      (i32.store offset={DONE-LIST+4} (local.get $at) (local.get $function))
      (i32.store offset={DONE-LIST+8} (local.get $at) (local.get $verdict))
      (i64.store offset={DONE-LIST+16} (local.get $at) (local.get $descriptor))
      (i32.store (i32.const {DONE}) (i32.add (local.get $count) (i32.const 1))))

    ;; Whether descriptor $now lies in the room in which the checked descriptor $kept lies.
    (func $same-room (param $kept i64) (param $now i64) (result i32)
      (local $bytes i32) (local $into i32)
      (local.set $bytes (i32.load (i32.const {ROOM-BYTES})))
      (local.set $into (i32.sub
        (i32.wrap_i64 (local.get $now))
        (i32.and (i32.wrap_i64 (local.get $kept)) (i32.sub (i32.const 0) (local.get $bytes)))))
      (i32.and
        (i32.lt_u (local.get $into) (local.get $bytes))
        (i32.le_u (i32.wrap_i64 (i64.shr_u (local.get $now) (i64.const 32)))
          (i32.sub (local.get $bytes) (local.get $into)))))

    ;; Applies the verdicts of function $k to the first $n packets; the answer is how many stay.
    ;; The common case, all `next` and no descriptor moved, is one pass of vector instructions,
    ;; sixteen packets at a time (what lies behind $n is zero or brings us to the slow way). No vector
    ;; lives from one round to the next: Cranelift would keep it on the stack.
    (func $settle (param $k i32) (param $n i32) (param $writes i32) (param $last i32) (result i32)
      (local $i i32) (local $at i32)
      (block $uneven
        (loop $sixteen
          (local.set $at (i32.shl (local.get $i) (i32.const 2)))
          (br_if $uneven (v128.any_true
            (v128.or
              (v128.or
                (v128.load offset={VERDICTS} (local.get $at))
                (v128.load offset={VERDICTS+16} (local.get $at)))
              (v128.or
                (v128.load offset={VERDICTS+32} (local.get $at))
                (v128.load offset={VERDICTS+48} (local.get $at))))))
          (if (local.get $writes) (then
            (local.set $at (i32.shl (local.get $i) (i32.const 3)))
            (br_if $uneven (v128.any_true
              (v128.or
                (v128.or
                  (v128.or
                    (v128.xor (v128.load offset={DESCRIPTORS} (local.get $at))
                      (v128.load offset={KEPT} (local.get $at)))
                    (v128.xor (v128.load offset={DESCRIPTORS+16} (local.get $at))
                      (v128.load offset={KEPT+16} (local.get $at))))
                  (v128.or
                    (v128.xor (v128.load offset={DESCRIPTORS+32} (local.get $at))
                      (v128.load offset={KEPT+32} (local.get $at)))
                    (v128.xor (v128.load offset={DESCRIPTORS+48} (local.get $at))
                      (v128.load offset={KEPT+48} (local.get $at)))))
                (v128.or
                  (v128.or
                    (v128.xor (v128.load offset={DESCRIPTORS+64} (local.get $at))
                      (v128.load offset={KEPT+64} (local.get $at)))
                    (v128.xor (v128.load offset={DESCRIPTORS+80} (local.get $at))
                      (v128.load offset={KEPT+80} (local.get $at))))
                  (v128.or
                    (v128.xor (v128.load offset={DESCRIPTORS+96} (local.get $at))
                      (v128.load offset={KEPT+96} (local.get $at)))
                    (v128.xor (v128.load offset={DESCRIPTORS+112} (local.get $at))
                      (v128.load offset={KEPT+112} (local.get $at))))))))))
          (br_if $sixteen (i32.lt_u
            (local.tee $i (i32.add (local.get $i) (i32.const 16))) (local.get $n))))
        (return (local.get $n)))
      (call $settle-one-by-one
        (local.get $k) (local.get $n) (local.get $writes) (local.get $last)))

    (func $settle-one-by-one
      (param $k i32) (param $n i32) (param $writes i32) (param $last i32) (result i32)
      (local $i i32) (local $j i32) (local $verdict i32) (local $argument i32) (local $origin i32)
      (local $kept i64) (local $now i64)
      (i32.store (i32.const {EVEN}) (i32.const 0))
      ;; Functions after this one see fewer packets, and what they write behind those is not looked at.
      (i32.store (i32.const {CLEAN}) (i32.const 0))
      (block $end (loop $packets
        (br_if $end (i32.ge_u (local.get $i) (local.get $n)))
        (local.set $verdict (i32.load offset={VERDICTS} (i32.shl (local.get $i) (i32.const 2))))
        (local.set $argument (i32.shr_u (local.get $verdict) (i32.const 8)))
        (local.set $origin (i32.load offset={ORIGINS} (i32.shl (local.get $i) (i32.const 2))))
        (local.set $kept (i64.load offset={KEPT} (i32.shl (local.get $i) (i32.const 3))))
        (local.set $now (local.get $kept))
        (block $gone
          (block $bad
            (if (local.get $writes) (then
              (local.set $now
                (i64.load offset={DESCRIPTORS} (i32.shl (local.get $i) (i32.const 3))))
              (if (i64.ne (local.get $now) (local.get $kept)) (then
                (if (i32.eqz (call $same-room (local.get $kept) (local.get $now))) (then
                  (call $finish (local.get $origin)
                    (i32.or (local.get $k) (i32.const {BAD-DESCRIPTOR}))
                    (local.get $verdict) (local.get $now))
                  (br $gone)))))))
            ;; Final, for the whole flow: next, drop, reply, forward, to-kernel can be.
            (br_if $bad (i32.and
              (i32.ne (i32.and (local.get $verdict) (i32.const 0x80)) (i32.const 0))
              (i32.gt_u (i32.and (local.get $verdict) (i32.const 0x7f)) (i32.const 4))))
            (block $leave (block $clone (block $jump (block $none (block $next
              (br_table $next $leave $none $leave $none $jump $none $clone $leave $bad
                (i32.and (local.get $verdict) (i32.const 0x7f))))
              ;; next
              (br_if $bad (local.get $argument))
              (if (local.get $verdict) (then
                (i32.store (i32.const {ANY-FINAL}) (i32.const 1))
                (i64.store offset={FINALS} (i32.shl (local.get $origin) (i32.const 3)) (i64.or
                  (i64.load offset={FINALS} (i32.shl (local.get $origin) (i32.const 3)))
                  (i64.shl (i64.const 1) (i64.extend_i32_u (local.get $k)))))))
              (call $keep (local.get $i) (local.get $j) (local.get $origin) (local.get $now))
              (local.set $j (i32.add (local.get $j) (i32.const 1)))
              (br $gone))
              ;; reply, to-kernel, hold: no argument
              (br_if $bad (local.get $argument))
              (br $leave))
              ;; jump: only to a function that comes later, so that a chain always ends
              (br_if $bad (i32.gt_u (local.get $argument) (i32.const 0xffff)))
              (if (i32.load (i32.const {REVERSE}))
                (then (br_if $bad (i32.ge_u (local.get $argument) (local.get $k))))
                (else
                  (br_if $bad (i32.le_u (local.get $argument) (local.get $k)))
                  (br_if $bad (i32.gt_u (local.get $argument) (local.get $last)))))
              (call $park (local.get $i) (local.get $origin) (local.get $argument)
                (local.get $now))
              (i64.store offset={JUMPED} (i32.shl (local.get $k) (i32.const 3)) (i64.add
                (i64.load offset={JUMPED} (i32.shl (local.get $k) (i32.const 3)))
                (i64.const 1)))
              (br $gone))
              ;; clone: the host copies the packet as it is now, and says whether the port exists
              (br_if $bad (i32.eqz (call $clone
                (i32.wrap_i64 (local.get $now))
                (i32.wrap_i64 (i64.shr_u (local.get $now) (i64.const 32)))
                (local.get $argument))))
              (i64.store offset={CLONED} (i32.shl (local.get $k) (i32.const 3)) (i64.add
                (i64.load offset={CLONED} (i32.shl (local.get $k) (i32.const 3)))
                (i64.const 1)))
              (call $keep (local.get $i) (local.get $j) (local.get $origin) (local.get $now))
              (local.set $j (i32.add (local.get $j) (i32.const 1)))
              (br $gone))
            ;; drop, reply, forward, to-kernel, hold, move: the host acts on it
            (call $finish (local.get $origin) (local.get $k) (local.get $verdict)
              (local.get $now))
            (br $gone))
          (call $finish (local.get $origin)
            (i32.or (local.get $k) (i32.const {BAD-VERDICT}))
            (local.get $verdict) (local.get $now)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $packets)))
      ;; All verdicts back to `next`, and what lies behind the vector equal on both sides.
      (local.set $i (i32.and (i32.add (local.get $n) (i32.const 15)) (i32.const -16)))
      (memory.fill (i32.const {VERDICTS}) (i32.const 0) (i32.shl (local.get $i) (i32.const 2)))
      (memory.copy
        (i32.add (i32.const {DESCRIPTORS}) (i32.shl (local.get $j) (i32.const 3)))
        (i32.add (i32.const {KEPT}) (i32.shl (local.get $j) (i32.const 3)))
        (i32.shl (i32.sub (local.get $i) (local.get $j)) (i32.const 3)))
      (local.get $j))

    ;; Moves the packet in slot $i to slot $j.
    (func $keep (param $i i32) (param $j i32) (param $origin i32) (param $descriptor i64)
      (call $set (local.get $j) (local.get $origin) (local.get $descriptor)
        (i64.load offset={METADATA} (i32.shl (local.get $i) (i32.const 3)))))

    (func $set (param $slot i32) (param $origin i32) (param $descriptor i64) (param $metadata i64)
      (i32.store offset={ORIGINS} (i32.shl (local.get $slot) (i32.const 2)) (local.get $origin))
      (i64.store offset={KEPT} (i32.shl (local.get $slot) (i32.const 3)) (local.get $descriptor))
      (i64.store offset={DESCRIPTORS} (i32.shl (local.get $slot) (i32.const 3))
        (local.get $descriptor))
      (i64.store offset={METADATA} (i32.shl (local.get $slot) (i32.const 3))
        (local.get $metadata)))

    ;; Puts the packet in slot $i on the parked list until function $target.
    (func $park (param $i i32) (param $origin i32) (param $target i32) (param $descriptor i64)
      (local $at i32) (local $count i32)
      (local.set $count (i32.load (i32.const {PARKED})))
      (local.set $at (i32.mul (local.get $count) (i32.const 24)))
      (i32.store offset={PARKED-LIST} (local.get $at) (local.get $origin))
      (i32.store offset={PARKED-LIST+4} (local.get $at) (local.get $target))
      (i64.store offset={PARKED-LIST+8} (local.get $at) (local.get $descriptor))
      (i64.store offset={PARKED-LIST+16} (local.get $at)
        (i64.load offset={METADATA} (i32.shl (local.get $i) (i32.const 3))))
      (i32.store (i32.const {PARKED}) (i32.add (local.get $count) (i32.const 1))))

    ;; Takes packets that wait for function $k back into the vector, in the burst's order.
    (func $unpark (param $k i32) (param $n i32) (result i32)
      (local $from i32) (local $to i32) (local $end i32) (local $slot i32) (local $origin i32)
      (local.set $end (i32.mul (i32.load (i32.const {PARKED})) (i32.const 24)))
      (block $done (loop $records
        (br_if $done (i32.ge_u (local.get $from) (local.get $end)))
        (if (i32.eq (i32.load offset={PARKED-LIST+4} (local.get $from)) (local.get $k))
          (then
            (local.set $origin (i32.load offset={PARKED-LIST} (local.get $from)))
            (local.set $slot (local.get $n))
            (block $found (loop $shift
              (br_if $found (i32.eqz (local.get $slot)))
              (br_if $found (i32.lt_u
                (i32.load offset={ORIGINS-4} (i32.shl (local.get $slot) (i32.const 2)))
                (local.get $origin)))
              (call $set (local.get $slot)
                (i32.load offset={ORIGINS-4} (i32.shl (local.get $slot) (i32.const 2)))
                (i64.load offset={KEPT-8} (i32.shl (local.get $slot) (i32.const 3)))
                (i64.load offset={METADATA-8} (i32.shl (local.get $slot) (i32.const 3))))
              (local.set $slot (i32.sub (local.get $slot) (i32.const 1)))
              (br $shift)))
            (call $set (local.get $slot) (local.get $origin)
              (i64.load offset={PARKED-LIST+8} (local.get $from))
              (i64.load offset={PARKED-LIST+16} (local.get $from)))
            ;; A function before may have written behind the packets that it was given.
            (i32.store offset={VERDICTS} (i32.shl (local.get $n) (i32.const 2)) (i32.const 0))
            (local.set $n (i32.add (local.get $n) (i32.const 1))))
          (else
            (memory.copy
              (i32.add (i32.const {PARKED-LIST}) (local.get $to))
              (i32.add (i32.const {PARKED-LIST}) (local.get $from))
              (i32.const 24))
            (local.set $to (i32.add (local.get $to) (i32.const 24)))))
        (local.set $from (i32.add (local.get $from) (i32.const 24)))
        (br $records)))
      (i32.store (i32.const {PARKED}) (i32.div_u (local.get $to) (i32.const 24)))
      (local.get $n))

    ;; Function $k is out of order and fail-closed: all that reaches it is dropped.
    (func $refuse (param $k i32) (param $n i32)
      (local $i i32)
      (i32.store (i32.const {EVEN}) (i32.const 0))
      (i32.store (i32.const {CLEAN}) (i32.const 0))
      (block $end (loop $packets
        (br_if $end (i32.ge_u (local.get $i) (local.get $n)))
        (call $finish
          (i32.load offset={ORIGINS} (i32.shl (local.get $i) (i32.const 2)))
          (i32.or (local.get $k) (i32.const {REFUSED})) (i32.const 0)
          (i64.load offset={KEPT} (i32.shl (local.get $i) (i32.const 3))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $packets))))

    ;; Lays out the packets from slot $first on, as many as fit, as burst.md says, with $head bytes of each; the
    ;; answer is how many they are.
    (func $stage (param $first i32) (param $n i32) (param $head i32) (result i32)
      (local $row i32) (local $at i32) (local $given i32) (local $slot i32) (local $d i64)
      (local.set $row (i32.add (global.get $staging) (i32.const {HEADER})))
      (local.set $at (i32.add (i32.const {HEADER})
        (i32.mul (i32.sub (local.get $n) (local.get $first)) (i32.const {ROW}))))
      (local.set $slot (local.get $first))
      (block $full (loop $packets
        (local.set $d (i64.load offset={KEPT} (i32.shl (local.get $slot) (i32.const 3))))
        (local.set $given (i32.wrap_i64 (i64.shr_u (local.get $d) (i64.const 32))))
        (i32.store offset=8 (local.get $row) (local.get $given))
        (local.set $given (select (local.get $given) (local.get $head)
          (i32.lt_u (local.get $given) (local.get $head))))
        (br_if $full (i32.and
          (i32.ne (local.get $slot) (local.get $first))
          (i32.gt_u (i32.add (local.get $at) (local.get $given)) (i32.const {STAGED-MAX}))))
        (i32.store (local.get $row) (local.get $at))
        (i32.store offset=4 (local.get $row) (local.get $given))
        (i64.store offset=12 (local.get $row)
          (i64.load offset={METADATA} (i32.shl (local.get $slot) (i32.const 3))))
        (memory.copy
          (i32.add (global.get $staging) (local.get $at))
          (i32.add (global.get $rooms) (i32.sub (i32.wrap_i64 (local.get $d)) (i32.const 0x10000)))
          (local.get $given))
        (local.set $at (i32.add (local.get $at) (local.get $given)))
        (local.set $row (i32.add (local.get $row) (i32.const {ROW})))
        (br_if $packets (i32.lt_u
          (local.tee $slot (i32.add (local.get $slot) (i32.const 1))) (local.get $n)))))
      (global.set $staged (local.get $at))
      (local.set $slot (i32.sub (local.get $slot) (local.get $first)))
      (i32.store (global.get $staging) (local.get $slot))
      (i32.store offset=4 (global.get $staging) (i32.const 0))
      (i64.store offset=8 (global.get $staging) (i64.load (i32.const {CLOCK})))
      (i64.store offset=16 (global.get $staging) (i64.load (i32.const {CLOCK+8})))
      (local.get $slot))

    ;; Writes the answer at 0x10 about the $count packets from slot $first on into the window, where it is settled
    ;; like any other.
    (func $answer (param $first i32) (param $count i32) (param $writes i32)
      (local $i i32) (local $verdict i32) (local $change i32)
      (if (i32.load (i32.const 0x14)) (then
        (loop $verdicts
          (local.set $verdict (i32.const 0xff))
          (if (i32.eq (i32.load (i32.const 0x14)) (i32.shl (local.get $count) (i32.const 2)))
            (then (local.set $verdict (i32.load
              (i32.add (i32.load (i32.const 0x10)) (i32.shl (local.get $i) (i32.const 2)))))))
          (i32.store offset={VERDICTS}
            (i32.shl (i32.add (local.get $first) (local.get $i)) (i32.const 2))
            (select (i32.const 0xff) (local.get $verdict)
              (i32.eq (i32.and (local.get $verdict) (i32.const 0xff)) (i32.const {HOLD}))))
          (br_if $verdicts (i32.lt_u
            (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $count))))))
      (local.set $i (i32.load (i32.const 0x1c)))
      (local.set $change (i32.load (i32.const 0x18)))
      (block $end (loop $changes
        (br_if $end (i32.eqz (local.get $i)))
        (call $change (local.get $first) (local.get $count) (local.get $writes)
          (local.get $change))
        (local.set $change (i32.add (local.get $change) (i32.const 16)))
        (local.set $i (i32.sub (local.get $i) (i32.const 1)))
        (br $changes))))

    ;; Applies the change (index, replaced, address and length of its bytes) at $change to one of those packets.
    (func $change (param $first i32) (param $count i32) (param $writes i32) (param $change i32)
      (local $index i32) (local $replaced i32) (local $length i32) (local $rest i32) (local $start i32)
      (local $kept i64) (local $now i64)
      (local.set $index (i32.load (local.get $change)))
      (local.set $replaced (i32.load offset=4 (local.get $change)))
      (local.set $length (i32.load offset=12 (local.get $change)))
      (if (i32.ge_u (local.get $index) (local.get $count)) (then
        (i32.store offset={VERDICTS} (i32.shl (local.get $first) (i32.const 2)) (i32.const 0xff))
        (return)))
      (if (i32.or (i32.eqz (local.get $writes)) (i32.gt_u (local.get $replaced)
          ;; The packet's `given`.
          (i32.load offset={HEADER+4}
            (i32.add (global.get $staging) (i32.mul (local.get $index) (i32.const {ROW}))))))
        (then
          (i32.store offset={VERDICTS}
            (i32.shl (i32.add (local.get $first) (local.get $index)) (i32.const 2)) (i32.const 0xff))
          (return)))
      (local.set $index (i32.add (local.get $first) (local.get $index)))
      (local.set $kept (i64.load offset={KEPT} (i32.shl (local.get $index) (i32.const 3))))
      (local.set $rest (i32.sub
        (i32.wrap_i64 (i64.shr_u (local.get $kept) (i64.const 32))) (local.get $replaced)))
      (if (local.get $rest)
        (then (local.set $start (i32.sub
          (i32.add (i32.wrap_i64 (local.get $kept)) (local.get $replaced)) (local.get $length))))
        (else (local.set $start (i32.add (i32.const {HEADROOM})
          (i32.and (i32.wrap_i64 (local.get $kept))
            (i32.sub (i32.const 0) (i32.load (i32.const {ROOM-BYTES}))))))))
      (local.set $now (i64.or
        (i64.shl (i64.extend_i32_u (i32.add (local.get $rest) (local.get $length))) (i64.const 32))
        (i64.extend_i32_u (local.get $start))))
      (if (call $same-room (local.get $kept) (local.get $now)) (then
        (memory.copy
          (i32.add (global.get $rooms) (i32.sub (local.get $start) (i32.const 0x10000)))
          (i32.load offset=8 (local.get $change))
          (local.get $length))))
      (i64.store offset={DESCRIPTORS} (i32.shl (local.get $index) (i32.const 3)) (local.get $now)))

{steps}

    ;; Passes the burst of $count packets, from function $start on, in either direction.
    (func $run (export "run") (param $count i32) (param $start i32) (param $reverse i32)
      (i32.store (i32.const {DONE}) (i32.const 0))
      (i32.store (i32.const {PARKED}) (i32.const 0))
      (i32.store (i32.const {REVERSE}) (local.get $reverse))
      (i32.store (i32.const {EVEN}) (i32.const 1))
      (if (local.get $reverse)
        (then
{steps-back}
        )
        (else
{steps-forth}
        ))
      (i32.store (i32.const {ACTIVE}) (local.get $count))
      (i32.store (i32.const {POSITION}) (i32.const -1)))

    ;; The worker's loop turned inside out: asks the host for the next burst until it says 0.
    ;; A burst is count | start << 16 | reverse << 32.
    (func (export "serve")
      (local $burst i64)
      (block $end (loop $bursts
        (local.set $burst (call $next))
        (br_if $end (i64.eqz (local.get $burst)))
        (call $run
          (i32.and (i32.wrap_i64 (local.get $burst)) (i32.const 0xffff))
          (i32.shr_u (i32.wrap_i64 (local.get $burst)) (i32.const 16))
          (i32.wrap_i64 (i64.shr_u (local.get $burst) (i64.const 32))))
        (br $bursts)))))

  (core instance $runner (instantiate $runner-module
    (with "memory" (instance $memory))
    (with "host" (instance
      (export "attach" (func $attach))
      (export "attach-rooms" (func $attach-rooms))
      (export "clone" (func $clone))
      (export "look" (func $look))
      (export "next" (func $next))
{function-exports}
    ))))
  (func (export "attach") (param "window-bytes" u32) (param "align" u32)
    (canon lift (core func $runner "attach")))
  (func (export "run") (param "count" u32) (param "start" u32) (param "reverse" u32)
    (canon lift (core func $runner "run")))
  (func (export "serve") (canon lift (core func $runner "serve"))))
