;; Drops TCP and UDP packets to blocked ports. Of what it does not read, nothing is dropped: frames with VLAN tags, and IPv6 with extension headers;
;; nor does it compare lengths within the headers with the frame's. examples/packet-filter of the SDK reads all of these.
;;
;; Memory: 0x0000 what `configure` answers, 0x0040 texts, 0x2000 a bit for each port, 0x10000 on: what the host hands over.
(module
  (import "weir:net/host@0.1.0" "attach-window" (func $attach-window (param i32 i32) (result i32)))
  (import "weir:net/host@0.1.0" "counter-add" (func $counter-add (param i32 i32 i64)))
  (memory (export "memory") 2)
  (data (i32.const 0x40) "{\22blocked\22:[")          ;; 12 bytes, how the config begins
  (data (i32.const 0x60) "blocked: a list of ports from 1 to 65535 is needed, and nothing else")
  (global $top (mut i32) (i32.const 0x10000))
  (global $window (mut i32) (i32.const 0))

  ;; Room for what the host hands over; never given back, as that is only in `configure`.
  (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $top) (i32.shl (memory.size) (i32.const 16))) (then
      (if (i32.eq (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1))) (i32.const -1))
        (then (unreachable)))))
    (local.get $at))

  ;; Reads `{"blocked":[23,2323]}`. 1 if it is that.
  (func $read-config (param $at i32) (param $length i32) (result i32)
    (local $end i32) (local $i i32) (local $port i32) (local $digit i32) (local $digits i32)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (if (i32.lt_u (local.get $length) (i32.const 14)) (then (return (i32.const 0))))
    (loop $start
      (if (i32.ne (i32.load8_u (i32.add (local.get $at) (local.get $i))) (i32.load8_u offset=0x40 (local.get $i)))
        (then (return (i32.const 0))))
      (br_if $start (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 12))))
    (local.set $at (i32.add (local.get $at) (i32.const 12)))
    ;; `]}` at once: an empty list.
    (if (i32.eq (i32.load16_u (local.get $at)) (i32.const 0x7d5d))
      (then (return (i32.eq (i32.add (local.get $at) (i32.const 2)) (local.get $end)))))
    (loop $numbers
      (local.set $port (i32.const 0))
      (local.set $digits (i32.const 0))
      (block $number-ends
        (loop $digit
          (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
          (br_if $number-ends (i32.gt_u (local.get $digit) (i32.const 9)))
          (local.set $port (i32.add (i32.mul (local.get $port) (i32.const 10)) (local.get $digit)))
          (local.set $digits (i32.add (local.get $digits) (i32.const 1)))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br_if $digit (i32.and (i32.le_u (local.get $digits) (i32.const 5)) (i32.lt_u (local.get $at) (local.get $end))))))
      (if (i32.or (i32.gt_u (local.get $port) (i32.const 65535)) (i32.eqz (local.get $port)))
        (then (return (i32.const 0))))
      (i32.store8 offset=0x2000 (i32.shr_u (local.get $port) (i32.const 3))
        (i32.or (i32.load8_u offset=0x2000 (i32.shr_u (local.get $port) (i32.const 3)))
          (i32.shl (i32.const 1) (i32.and (local.get $port) (i32.const 7)))))
      ;; A comma: the next one.
      (local.set $digit (i32.load8_u (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $numbers (i32.eq (local.get $digit) (i32.const 44))))
    (i32.and
      (i32.eq (i32.load16_u (i32.sub (local.get $at) (i32.const 1))) (i32.const 0x7d5d))
      (i32.eq (i32.add (local.get $at) (i32.const 1)) (local.get $end))))

  ;; The fields of `setup` one by one, as the canonical ABI passes them; the last two are the config.
  (func (export "weir:net/packet@0.1.0#configure")
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
    ;; A result: 0, or 1 and a text.
    (i32.store (i32.const 0) (i32.eqz (call $read-config (local.get $config) (local.get $config-length))))
    (i32.store (i32.const 4) (i32.const 0x60))
    (i32.store (i32.const 8) (i32.const 68))
    (i32.const 0))

  ;; The destination port of a TCP or UDP packet, or 0.
  (func $port (param $p i32) (param $length i32) (result i32)
    (local $kind i32) (local $protocol i32) (local $l4 i32) (local $port i32)
    (if (i32.lt_u (local.get $length) (i32.const 38)) (then (return (i32.const 0))))
    (local.set $kind (i32.load16_u offset=12 (local.get $p)))
    (if (i32.eq (local.get $kind) (i32.const 0x0008))            ;; IPv4; numbers are read the other way round
      (then
        ;; Version 4, and a header of at least five words: a shorter one would have the port in it.
        (if (i32.gt_u (i32.sub (i32.load8_u offset=14 (local.get $p)) (i32.const 0x45)) (i32.const 10)) (then (return (i32.const 0))))
        ;; Later fragments have no ports.
        (if (i32.and (i32.load16_u offset=20 (local.get $p)) (i32.const 0xff1f)) (then (return (i32.const 0))))
        (local.set $protocol (i32.load8_u offset=23 (local.get $p)))
        (local.set $l4 (i32.add (i32.const 14)
          (i32.shl (i32.and (i32.load8_u offset=14 (local.get $p)) (i32.const 15)) (i32.const 2)))))
      (else
        (if (i32.ne (local.get $kind) (i32.const 0xdd86)) (then (return (i32.const 0))))
        (local.set $protocol (i32.load8_u offset=20 (local.get $p)))
        (local.set $l4 (i32.const 54))))
    (if (i32.and (i32.ne (local.get $protocol) (i32.const 6)) (i32.ne (local.get $protocol) (i32.const 17)))
      (then (return (i32.const 0))))
    (if (i32.gt_u (i32.add (local.get $l4) (i32.const 4)) (local.get $length)) (then (return (i32.const 0))))
    (local.set $port (i32.load16_u offset=2 (i32.add (local.get $p) (local.get $l4))))
    (i32.or (i32.shl (i32.and (local.get $port) (i32.const 0xff)) (i32.const 8)) (i32.shr_u (local.get $port) (i32.const 8))))

  (func (export "weir:net/packet@0.1.0#process") (param $count i32)
    (local $i i32) (local $port i32) (local $descriptor i32) (local $dropped i64)
    (loop $packets
      (local.set $descriptor (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 3))))
      (local.set $port (call $port
        (i32.add (global.get $window) (i32.load (local.get $descriptor))) (i32.load offset=4 (local.get $descriptor))))
      ;; The bit of port 0 is never set.
      (if (i32.and (i32.shr_u (i32.load8_u offset=0x2000 (i32.shr_u (local.get $port) (i32.const 3)))
                     (i32.and (local.get $port) (i32.const 7))) (i32.const 1))
        (then
          ;; Drop, with reason 1; all verdicts are "next" before.
          (i32.store offset=0x1000 (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 2))) (i32.const 0x101))
          (local.set $dropped (i64.add (local.get $dropped) (i64.const 1)))))
      (br_if $packets (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $count))))
    ;; The counter's name is a part of the config's beginning: `blocked`.
    (if (i64.ne (local.get $dropped) (i64.const 0))
      (then (call $counter-add (i32.const 0x42) (i32.const 7) (local.get $dropped)))))

  (func (export "weir:net/packet@0.1.0#tick") (param $now i64))
)
