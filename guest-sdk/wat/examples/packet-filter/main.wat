;; A stateless firewall: the function that every SDK has as an example. What it does is specified in guest-sdk/packet-filter/README.md; its
;; rules are a table that table.py has made, so that nothing of their syntax is read here.
;;
;; Memory: 0x0000 what `configure` answers, 0x0040 texts, 0x0ffc the verdict without a rule, 0x1000 the rules (96 bytes each, README.md),
;; 0x10000 on: what the host hands over.
(module
  (import "weir:net/host@0.1.0" "attach-window" (func $attach-window (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0x40) "{\22table\22:\22")              ;; 10 bytes, how the config begins
  (data (i32.const 0x60) "table: expected is the text that table.py prints, for at most 64 rules, and nothing else")
  (global $top (mut i32) (i32.const 0x10000))
  (global $window (mut i32) (i32.const 0))
  (global $rules-end (mut i32) (i32.const 0x1000))

  ;; Room for what the host hands over; never given back, as that is only in `configure`.
  (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $top) (i32.shl (memory.size) (i32.const 16))) (then
      (if (i32.eq (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1))) (i32.const -1))
        (then (unreachable)))))
    (local.get $at))

  ;; What a lower-case hexadecimal digit stands for; 16 if it is none.
  (func $digit (param $letter i32) (result i32)
    (local $number i32)
    (if (i32.lt_u (local.tee $number (i32.sub (local.get $letter) (i32.const 48))) (i32.const 10))
      (then (return (local.get $number))))
    (if (i32.lt_u (local.tee $number (i32.sub (local.get $letter) (i32.const 97))) (i32.const 6))
      (then (return (i32.add (local.get $number) (i32.const 10)))))
    (i32.const 16))

  ;; Reads `{"table":"00000101..."}` into 0x0ffc on. 1 if it is that.
  (func $read-config (param $at i32) (param $length i32) (result i32)
    (local $i i32) (local $bytes i32) (local $high i32) (local $low i32)
    ;; Around the digits are 12 characters. 4 bytes, and 96 for each rule.
    (if (i32.or (i32.lt_u (local.get $length) (i32.const 20)) (i32.and (local.get $length) (i32.const 1)))
      (then (return (i32.const 0))))
    (local.set $bytes (i32.shr_u (i32.sub (local.get $length) (i32.const 12)) (i32.const 1)))
    (if (i32.or (i32.gt_u (local.get $bytes) (i32.const 6148))
          (i32.rem_u (i32.sub (local.get $bytes) (i32.const 4)) (i32.const 96)))
      (then (return (i32.const 0))))
    (loop $start
      (if (i32.ne (i32.load8_u (i32.add (local.get $at) (local.get $i))) (i32.load8_u offset=0x40 (local.get $i)))
        (then (return (i32.const 0))))
      (br_if $start (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10))))
    (local.set $at (i32.add (local.get $at) (i32.const 10)))
    (local.set $i (i32.const 0))
    (loop $pairs
      (local.set $high (call $digit (i32.load8_u (local.get $at))))
      (local.set $low (call $digit (i32.load8_u offset=1 (local.get $at))))
      (if (i32.or (i32.eq (local.get $high) (i32.const 16)) (i32.eq (local.get $low) (i32.const 16)))
        (then (return (i32.const 0))))
      (i32.store8 offset=0xffc (local.get $i) (i32.or (i32.shl (local.get $high) (i32.const 4)) (local.get $low)))
      (local.set $at (i32.add (local.get $at) (i32.const 2)))
      (br_if $pairs (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $bytes))))
    (global.set $rules-end (i32.add (i32.const 0xffc) (local.get $bytes)))
    (i32.eq (i32.load16_u (local.get $at)) (i32.const 0x7d22)))     ;; `"}`

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
    (i32.store (i32.const 8) (i32.const 88))
    (i32.const 0))

  ;; The number of two bytes in network order.
  (func $number (param $at i32) (result i32)
    (i32.or (i32.shl (i32.load8_u (local.get $at)) (i32.const 8)) (i32.load8_u offset=1 (local.get $at))))

  ;; The verdict for a frame: 0 is "next", 0x101 "drop" with reason 1.
  (func $decide (param $p i32) (param $length i32) (result i32)
    (local $end i32) (local $l3 i32) (local $l4 i32) (local $stop i32) (local $kind i32) (local $protocol i32) (local $version i32)
    (local $fragment i32) (local $walked i32) (local $sport i32) (local $dport i32) (local $src v128) (local $dst v128) (local $rule i32)
    (local.set $end (i32.add (local.get $p) (local.get $length)))
    (if (i32.lt_u (local.get $length) (i32.const 14)) (then (return (i32.const 0))))
    (local.set $kind (call $number (i32.add (local.get $p) (i32.const 12))))
    (local.set $l3 (i32.add (local.get $p) (i32.const 14)))
    ;; Up to two tags.
    (loop $tags
      (if (i32.or (i32.eq (local.get $kind) (i32.const 0x8100)) (i32.eq (local.get $kind) (i32.const 0x88a8))) (then
        (if (i32.gt_u (i32.add (local.get $l3) (i32.const 4)) (local.get $end)) (then (return (i32.const 0))))
        (local.set $kind (call $number (i32.add (local.get $l3) (i32.const 2))))
        (local.set $l3 (i32.add (local.get $l3) (i32.const 4)))
        (br_if $tags (i32.lt_u (local.tee $walked (i32.add (local.get $walked) (i32.const 1))) (i32.const 2))))))
    (local.set $walked (i32.const 0))
    (block $malformed
      (block $read
        (if (i32.eq (local.get $kind) (i32.const 0x0800)) (then
          (br_if $malformed (i32.gt_u (i32.add (local.get $l3) (i32.const 20)) (local.get $end)))
          (local.set $kind (i32.load8_u (local.get $l3)))
          ;; Version 4, and a length from 20 bytes on.
          (br_if $malformed (i32.gt_u (i32.sub (local.get $kind) (i32.const 0x45)) (i32.const 10)))
          (local.set $l4 (i32.add (local.get $l3) (i32.shl (i32.and (local.get $kind) (i32.const 15)) (i32.const 2))))
          (local.set $stop (i32.add (local.get $l3) (call $number (i32.add (local.get $l3) (i32.const 2)))))
          (br_if $malformed (i32.gt_u (local.get $l4) (local.get $stop)))
          (br_if $malformed (i32.gt_u (local.get $stop) (local.get $end)))
          (local.set $fragment (i32.and (call $number (i32.add (local.get $l3) (i32.const 6))) (i32.const 0x1fff)))
          (local.set $protocol (i32.load8_u offset=9 (local.get $l3)))
          (local.set $src (v128.load32_zero offset=12 (local.get $l3)))
          (local.set $dst (v128.load32_zero offset=16 (local.get $l3)))
          (local.set $version (i32.const 4))
          (br $read)))
        (if (i32.ne (local.get $kind) (i32.const 0x86dd)) (then (return (i32.const 0))))
        (br_if $malformed (i32.gt_u (i32.add (local.get $l3) (i32.const 40)) (local.get $end)))
        (local.set $l4 (i32.add (local.get $l3) (i32.const 40)))
        (local.set $stop (i32.add (local.get $l4) (call $number (i32.add (local.get $l3) (i32.const 4)))))
        (br_if $malformed (i32.ne (i32.shr_u (i32.load8_u (local.get $l3)) (i32.const 4)) (i32.const 6)))
        (br_if $malformed (i32.gt_u (local.get $stop) (local.get $end)))
        (local.set $protocol (i32.load8_u offset=6 (local.get $l3)))
        (local.set $src (v128.load offset=8 (local.get $l3)))
        (local.set $dst (v128.load offset=24 (local.get $l3)))
        (local.set $version (i32.const 6))
        (loop $extensions
          (br_if $read (i32.eqz (i32.or
            (i32.or (i32.eqz (local.get $protocol)) (i32.eq (local.get $protocol) (i32.const 43)))
            (i32.or (i32.eq (local.get $protocol) (i32.const 44)) (i32.eq (local.get $protocol) (i32.const 60))))))
          (br_if $malformed (i32.eq (local.get $walked) (i32.const 8)))
          (br_if $malformed (i32.gt_u (i32.add (local.get $l4) (i32.const 8)) (local.get $stop)))
          (local.set $walked (i32.add (local.get $walked) (i32.const 1)))
          (local.set $kind (local.get $protocol))
          (local.set $protocol (i32.load8_u (local.get $l4)))
          (if (i32.eq (local.get $kind) (i32.const 44))
            (then
              (local.set $fragment (i32.and (call $number (i32.add (local.get $l4) (i32.const 2))) (i32.const 0xfff8)))
              (local.set $l4 (i32.add (local.get $l4) (i32.const 8))))
            (else
              (local.set $l4 (i32.add (local.get $l4)
                (i32.shl (i32.add (i32.load8_u offset=1 (local.get $l4)) (i32.const 1)) (i32.const 3))))))
          (br_if $malformed (i32.gt_u (local.get $l4) (local.get $stop)))
          (br_if $extensions (i32.eqz (local.get $fragment)))))
      (local.set $sport (i32.const -1))
      (local.set $dport (i32.const -1))
      (if (i32.and (i32.eqz (local.get $fragment))
            (i32.or (i32.eq (local.get $protocol) (i32.const 6)) (i32.eq (local.get $protocol) (i32.const 17)))) (then
        (br_if $malformed (i32.gt_u
          (i32.add (local.get $l4) (select (i32.const 20) (i32.const 8) (i32.eq (local.get $protocol) (i32.const 6))))
          (local.get $stop)))
        (local.set $sport (call $number (local.get $l4)))
        (local.set $dport (call $number (i32.add (local.get $l4) (i32.const 2))))))
      (local.set $rule (i32.const 0x1000))
      (block $none
        (loop $rules
          (br_if $none (i32.eq (local.get $rule) (global.get $rules-end)))
          (block $other
            (br_if $other (i32.lt_s (local.get $dport) (i32.load offset=16 (local.get $rule))))
            (br_if $other (i32.gt_s (local.get $dport) (i32.load offset=20 (local.get $rule))))
            (br_if $other (i32.and (i32.ge_s (i32.load offset=4 (local.get $rule)) (i32.const 0))
              (i32.ne (i32.load offset=4 (local.get $rule)) (local.get $protocol))))
            (br_if $other (v128.any_true (v128.xor
              (v128.and (local.get $dst) (v128.load offset=64 (local.get $rule))) (v128.load offset=80 (local.get $rule)))))
            (br_if $other (v128.any_true (v128.xor
              (v128.and (local.get $src) (v128.load offset=32 (local.get $rule))) (v128.load offset=48 (local.get $rule)))))
            (br_if $other (i32.lt_s (local.get $sport) (i32.load offset=8 (local.get $rule))))
            (br_if $other (i32.gt_s (local.get $sport) (i32.load offset=12 (local.get $rule))))
            (br_if $other (i32.and (i32.ne (i32.load offset=24 (local.get $rule)) (i32.const 0))
              (i32.ne (i32.load offset=24 (local.get $rule)) (local.get $version))))
            (return (i32.load (local.get $rule))))
          (local.set $rule (i32.add (local.get $rule) (i32.const 96)))
          (br $rules)))
      (return (i32.load (i32.const 0xffc))))
    (i32.const 0x101))

  (func (export "weir:net/packet@0.1.0#process") (param $count i32)
    (local $i i32) (local $descriptor i32)
    (loop $packets
      (local.set $descriptor (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 3))))
      ;; All verdicts are "next" before; to write it again costs less than to ask.
      (i32.store offset=0x1000 (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 2)))
        (call $decide (i32.add (global.get $window) (i32.load (local.get $descriptor))) (i32.load offset=4 (local.get $descriptor))))
      (br_if $packets (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $count)))))

  (func (export "weir:net/packet@0.1.0#tick") (param $now i64))
)
