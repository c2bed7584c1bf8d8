//! Line tables: whatever they say, a fault's place is looked up without a panic and without end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_lines::Lines;

fuzz_target!(|data: &[u8]| {
    let Some((place, component)) = data.split_first_chunk::<4>() else { return };
    let [function, more, offset, far] = place.map(u32::from);
    let _ = Lines::of(component).of_place_anywhere(function | more << 8, offset | far << 8);
});
