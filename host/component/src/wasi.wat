;; WASI preview 1 for functions whose toolchain cannot do without it (Go, C++, Rust's wasip1), made of nothing but
;; `weir:net/host`:
;;
;;   fd_write to 1 and 2    lines of the function's log (1: info, 2: error)
;;   clock_time_get         host.now, whatever the clock: nanoseconds that only grow, no date
;;   random_get             host.random
;;   args_*, environ_*      empty
;;   poll_oneoff            every clock is due at once: who sleeps spins until the deadline
;;   proc_exit              a trap
;;   all that concerns files, directories and sockets: BADF (8)
;;
;; A line is kept in a page of the module's memory that is made when it first writes, until its end or until the page is
;; full. `{name}` are numbers that wasi.rs fills in.
(module
  (import "weir:net/host@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "weir:net/host@0.1.0" "now" (func $now (result i64)))
  (import "weir:net/host@0.1.0" "random" (func $random (result i64)))
  (import "env" "memory" (memory 0))

  ;; The page (0: not made yet), and how many bytes of an unfinished line stand in each half of it.
  (global $page (mut i32) (i32.const 0))
  (global $out (mut i32) (i32.const 0))
  (global $err (mut i32) (i32.const 0))

  ;; Logs what is kept for this descriptor.
  (func $flush (param $fd i32)
    (if (i32.eq (local.get $fd) (i32.const 1))
      (then
        (call $log (i32.const 2) (global.get $page) (global.get $out))
        (global.set $out (i32.const 0)))
      (else
        (call $log (i32.const 4) (i32.add (global.get $page) (i32.const 0x8000)) (global.get $err))
        (global.set $err (i32.const 0)))))

  (func $put (param $fd i32) (param $byte i32)
    (local $at i32)
    (if (i32.eq (local.get $byte) (i32.const 10)) (then
      (call $flush (local.get $fd))
      (return)))
    ;; Text is UTF-8 or a trap of the caller: other bytes are shown as `?`.
    (if (i32.ge_u (local.get $byte) (i32.const 0x80)) (then (local.set $byte (i32.const 0x3f))))
    (if (i32.eq (local.get $fd) (i32.const 1))
      (then
        (local.set $at (global.get $out))
        (global.set $out (i32.add (local.get $at) (i32.const 1))))
      (else
        (local.set $at (i32.add (global.get $err) (i32.const 0x8000)))
        (global.set $err (i32.add (global.get $err) (i32.const 1)))))
    (i32.store8 (i32.add (global.get $page) (local.get $at)) (local.get $byte))
    (if (i32.eq (i32.and (i32.add (local.get $at) (i32.const 1)) (i32.const 0x0fff)) (i32.const 0))
      (then (call $flush (local.get $fd)))))

  (func (export "fd_write")
    (param $fd i32) (param $list i32) (param $count i32) (param $written i32) (result i32)
    (local $at i32) (local $end i32) (local $total i32)
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const 8))))
    (if (i32.eqz (global.get $page)) (then
      (local.set $at (memory.grow (i32.const 1)))
      ;; No memory: NOMEM.
      (if (i32.eq (local.get $at) (i32.const -1)) (then (return (i32.const 48))))
      (global.set $page (i32.shl (local.get $at) (i32.const 16)))))
    (block $done (loop $each
      (br_if $done (i32.eqz (local.get $count)))
      (local.set $at (i32.load (local.get $list)))
      (local.set $end (i32.add (local.get $at) (i32.load offset=4 (local.get $list))))
      (local.set $total (i32.add (local.get $total) (i32.load offset=4 (local.get $list))))
      (block $written (loop $bytes
        (br_if $written (i32.ge_u (local.get $at) (local.get $end)))
        (call $put (local.get $fd) (i32.load8_u (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $bytes)))
      (local.set $list (i32.add (local.get $list) (i32.const 8)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $each)))
    (i32.store (local.get $written) (local.get $total))
    (i32.const 0))

  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $at i32) (result i32)
    (i64.store (local.get $at) (call $now))
    (i32.const 0))
  (func (export "clock_res_get") (param $clock i32) (param $at i32) (result i32)
    (i64.store (local.get $at) (i64.const 1))
    (i32.const 0))

  (func (export "random_get") (param $at i32) (param $bytes i32) (result i32)
    (local $end i32) (local $word i64) (local $left i32)
    (local.set $end (i32.add (local.get $at) (local.get $bytes)))
    (block $done (loop $each
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (if (i32.eqz (local.get $left)) (then
        (local.set $word (call $random))
        (local.set $left (i32.const 8))))
      (i64.store8 (local.get $at) (local.get $word))
      (local.set $word (i64.shr_u (local.get $word) (i64.const 8)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $each)))
    (i32.const 0))

  ;; Nothing, in no bytes.
  (func $empty (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $bytes) (i32.const 0))
    (i32.const 0))
  (export "args_sizes_get" (func $empty))
  (export "environ_sizes_get" (func $empty))
  (func $nothing (param i32 i32) (result i32) (i32.const 0))
  (export "args_get" (func $nothing))
  (export "environ_get" (func $nothing))

  ;; Standard output and error are character devices that can be written to; there is nothing else.
  (func (export "fd_fdstat_get") (param $fd i32) (param $at i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (i64.store (local.get $at) (i64.const 2))
    (i64.store offset=8 (local.get $at) (i64.shl
      (i64.extend_i32_u (i32.ne (local.get $fd) (i32.const 0))) (i64.const 6)))
    (i64.store offset=16 (local.get $at) (i64.const 0))
    (i32.const 0))
  (func (export "fd_fdstat_set_flags") (param $fd i32) (param i32) (result i32)
    (select (i32.const 8) (i32.const 0) (i32.gt_u (local.get $fd) (i32.const 2))))
  (func (export "fd_read") (param $fd i32) (param i32 i32) (param $read i32) (result i32)
    (if (local.get $fd) (then (return (i32.const 8))))
    (i32.store (local.get $read) (i32.const 0))
    (i32.const 0))

  (func (export "poll_oneoff")
    (param $in i32) (param $out i32) (param $count i32) (param $stored i32) (result i32)
    (i32.store (local.get $stored) (local.get $count))
    (block $done (loop $each
      (br_if $done (i32.eqz (local.get $count)))
      (i64.store (local.get $out) (i64.load (local.get $in)))
      ;; Its kind; what is no clock fails: NOSYS.
      (i64.store offset=8 (local.get $out) (i64.const 0))
      (i32.store8 offset=10 (local.get $out) (i32.load8_u offset=8 (local.get $in)))
      (if (i32.load8_u offset=8 (local.get $in)) (then
        (i32.store16 offset=8 (local.get $out) (i32.const 52))))
      (i64.store offset=16 (local.get $out) (i64.const 0))
      (i64.store offset=24 (local.get $out) (i64.const 0))
      (local.set $in (i32.add (local.get $in) (i32.const 48)))
      (local.set $out (i32.add (local.get $out) (i32.const 32)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $each)))
    (i32.const 0))

  (func (export "sched_yield") (result i32) (i32.const 0))
  (func (export "proc_exit") (param i32)
    (if (global.get $out) (then (call $flush (i32.const 1))))
    (if (global.get $err) (then (call $flush (i32.const 2))))
    unreachable)
  (func (export "proc_raise") (param i32) (result i32) unreachable)

{refused})
