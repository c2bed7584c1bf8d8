//! Lines of modules that Go's own compiler made.
//!
//! Its linker writes no DWARF for Wasm, stripped or not. But its runtime has tables (`pclntab`) in
//! the module's data, which stack traces of panics are made of, and they are there in every module:
//! this reads them. Go counts places in a function by its calls: before each one the code stores
//! the return address as a constant, `(0x1000 + function) << 16 | place`, so the constant before a
//! call tells its place. Between two calls there are only the lines that both places enclose.
//!
//! They come from tenants: what is read of them has bounds. The tables are those of Go 1.20 and
//! newer; what was inlined is found in those of Go 1.27, and in others is told by the function that
//! it was inlined into, without a line.

use std::cell::Cell;

use wasmparser::{BinaryReader, FunctionBody, Operator};

use crate::Line;

/// Bytes of data that are read.
const IMAGE_MAX: usize = 32 << 20;
/// How the tables begin: their version, that code is counted in ones, and that an address has 8
/// bytes.
const MAGIC: [u8; 8] = [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
/// Number of the first function in addresses of code.
const FIRST: u32 = 0x1000;
/// Functions that are inlined within each other at one place.
const INLINED_MAX: usize = 32;
/// Bytes of a function's record before its lists.
const RECORD: usize = 44;
/// Which of the lists' tables tell what was inlined.
const INLINED_PCDATA: usize = 2;
const INLINED_FUNCDATA: usize = 3;
/// Where the runtime's description of the module tells the address of what is listed by `funcdata`,
/// in words of 8 bytes.
const GOFUNC: usize = 43;
/// Steps through tables of values, for all frames of a fault together.
const STEPS_MAX: u32 = 4 << 20;

/// See the module.
pub(crate) struct Tables {
    /// The module's memory as it begins, from `start` on.
    image: Vec<u8>,
    start: usize,
    /// Places in it: of the header, and of the tables it tells.
    names: usize,
    units: usize,
    files: usize,
    values: usize,
    functions: usize,
    count: usize,
    gofunc: Option<usize>,
    /// Where the author's files are: what paths of them begin with.
    home: String,
    /// Steps that are left.
    steps: Cell<u32>,
}

/// A function's record.
#[derive(Clone, Copy)]
struct Function {
    at: usize,
    pcdata: usize,
    funcdata: usize,
}

impl Tables {
    /// Reads the tables of a module whose memory has this data; none if it has none.
    pub(crate) fn read(data: &[(u32, &[u8])]) -> Option<Self> {
        let start = data.iter().map(|(at, _)| *at as usize).min()?;
        let end = data.iter().map(|(at, bytes)| *at as usize + bytes.len()).max()?;
        if end - start > IMAGE_MAX {
            return None;
        }
        // Tables are found at addresses that are multiples of 8.
        let start = start & !7;
        let mut image = vec![0; end - start];
        for (at, bytes) in data {
            let at = *at as usize - start;
            image[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let header = image.chunks_exact(8).position(|word| word == MAGIC)? * 8;
        let mut tables = Self {
            image,
            start,
            names: 0,
            units: 0,
            files: 0,
            values: 0,
            functions: 0,
            count: 0,
            gofunc: None,
            home: String::new(),
            steps: Cell::new(STEPS_MAX),
        };
        let word = |n: usize| usize::try_from(tables.u64(header + 8 * n)?).ok();
        let table = |n: usize| word(n)?.checked_add(header);
        let count = word(1)?.min(tables.image.len() / 8);
        let [names, units, files, values, functions] =
            [table(4)?, table(5)?, table(6)?, table(7)?, table(8)?];
        (tables.names, tables.units, tables.files) = (names, units, files);
        (tables.values, tables.functions, tables.count) = (values, functions, count);
        tables.gofunc = tables.find_gofunc(header);
        tables.home = tables.find_home().unwrap_or_default();
        Some(tables)
    }

    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.image.get(at..)?.first_chunk().copied()
    }

    fn u32(&self, at: usize) -> Option<usize> {
        Some(u32::from_le_bytes(self.bytes(at)?) as usize)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    fn text(&self, at: usize) -> Option<&str> {
        let rest = self.image.get(at..)?;
        let end = rest.iter().take(4096).position(|byte| *byte == 0)?;
        str::from_utf8(&rest[..end]).ok()
    }

    /// The runtime's description of the module begins with the header's address and that of the
    /// names.
    fn find_gofunc(&self, header: usize) -> Option<usize> {
        let address = |at: usize| (self.start + at) as u64;
        let mut known = [0; 16];
        known[..8].copy_from_slice(&address(header).to_le_bytes());
        known[8..].copy_from_slice(&address(self.names).to_le_bytes());
        let at = self.image.chunks_exact(8).zip(self.image.chunks_exact(8).skip(1));
        let mut at = at.enumerate().filter(|(_, (a, b))| **a == known[..8] && **b == known[8..]);
        let module = at.next()?.0 * 8;
        let told = usize::try_from(self.u64(module + 8 * GOFUNC)?).ok()?;
        told.checked_sub(self.start).filter(|at| *at < self.image.len())
    }

    /// The directory of the file that has `main.main`.
    fn find_home(&self) -> Option<String> {
        let main = (0..self.count)
            .filter_map(|index| self.function(u32::try_from(index).ok()?))
            .find(|function| self.is_named(*function, b"main.main\0").is_some())?;
        let (file, _) = self.position(main, 0)?;
        Some(file[..=file.rfind('/')?].to_owned())
    }

    /// The record of a function, by its place among the module's own.
    fn function(&self, index: u32) -> Option<Function> {
        let entry = self.functions.checked_add(index as usize * 8)?;
        // Versions before 1.26 tell the address, from the first function's on, in place of the
        // number.
        let (told, place) = (self.u32(entry)?, index as usize);
        if place >= self.count || told != place + FIRST as usize && told != place << 16 {
            return None;
        }
        let at = self.functions.checked_add(self.u32(entry + 4)?)?;
        let pcdata = at + RECORD;
        let funcdata = pcdata.checked_add(self.u32(at + 28)?.checked_mul(4)?)?;
        Some(Function { at, pcdata, funcdata })
    }

    fn name(&self, function: Function) -> Option<&str> {
        self.text(self.names.checked_add(self.u32(function.at + 4)?)?)
    }

    fn is_named(&self, function: Function, name: &[u8]) -> Option<()> {
        let at = self.names.checked_add(self.u32(function.at + 4)?)?;
        self.image.get(at..)?.starts_with(name).then_some(())
    }

    /// What a table says of a place; none beyond its end.
    fn value(&self, table: usize, place: usize) -> Option<i32> {
        let mut rest = self.image.get(self.values.checked_add(table)?..).filter(|_| table != 0)?;
        let (mut value, mut until) = (-1_i32, 0_usize);
        loop {
            self.steps.set(self.steps.get().checked_sub(1)?);
            let delta = varint(&mut rest)?;
            if delta == 0 && until > 0 {
                return None;
            }
            // The lowest bit is the sign.
            let signed = (delta >> 1).cast_signed() ^ -((delta & 1).cast_signed());
            value = value.wrapping_add(signed);
            until = until.saturating_add(varint(&mut rest)? as usize);
            if place < until {
                return Some(value);
            }
        }
    }

    /// File and line of a place.
    fn position(&self, function: Function, place: usize) -> Option<(&str, u32)> {
        let number = self.value(self.u32(function.at + 20)?, place)?;
        let line = self.value(self.u32(function.at + 24)?, place)?;
        let unit = self.u32(function.at + 32)?.checked_add(usize::try_from(number).ok()?)?;
        let file = self.u32(self.units.checked_add(unit.checked_mul(4)?)?)?;
        let file = self.text(self.files.checked_add(file)?)?;
        Some((file, u32::try_from(line).ok()?)).filter(|_| !file.starts_with('<'))
    }

    /// The function that was inlined at a place, and the place that it was called at. An error:
    /// there is one, but it cannot be read.
    fn inlined(&self, function: Function, place: usize) -> Result<Option<(&str, usize)>, ()> {
        let list = |from: usize, number: usize| self.u32(from + 4 * number);
        let lists = self.u32(function.at + 28).ok_or(())?;
        let table = list(function.pcdata, INLINED_PCDATA).filter(|_| lists > INLINED_PCDATA);
        let number = table.and_then(|table| self.value(table, place));
        let Some(number) = number.and_then(|number| usize::try_from(number).ok()) else {
            return Ok(None);
        };
        let read = || {
            let more = self.image.get(function.at + RECORD - 1)?;
            let tree = list(function.funcdata, INLINED_FUNCDATA)
                .filter(|_| usize::from(*more) > INLINED_FUNCDATA)?;
            let entry = self.gofunc?.checked_add(tree)?.checked_add(number.checked_mul(16)?)?;
            let name = self.names.checked_add(self.u32(entry + 4)?)?;
            // Names end with a 0.
            let begins = name == self.names || self.image.get(name - 1) == Some(&0);
            Some((self.text(name).filter(|_| begins)?, self.u32(entry + 8)?))
        };
        read().ok_or(()).map(Some)
    }

    /// The place in the function itself that is, or led to, this one.
    fn outermost(&self, function: Function, mut place: usize) -> Option<usize> {
        for _ in 0..INLINED_MAX {
            match self.inlined(function, place).ok()? {
                None => return Some(place),
                Some((_, caller)) => place = caller,
            }
        }
        None
    }

    fn told(&self, name: &str, file: &str, line: String) -> Line {
        let function = Some(name.to_owned());
        let foreign = !file.starts_with(&self.home);
        Line { function, line: format!("{file}:{line}"), foreign }
    }

    /// The lines of a place in the body of a function, by its place among the module's own: the
    /// innermost that was inlined there first.
    pub(crate) fn places(&self, index: u32, body: &[u8], offset: u32) -> Option<Vec<Line>> {
        let function = self.function(index)?;
        let name = self.name(function)?;
        let (first, last) = places_at(index, body, u64::from(offset))?;
        let mut found = Vec::new();
        if first == last {
            let (mut place, mut names) = (last, Vec::new());
            for _ in 0..INLINED_MAX {
                let inlined = self.inlined(function, place).ok()?;
                names.push(inlined.map_or(name, |(name, _)| name));
                if let Some((file, line)) = self.position(function, place) {
                    found.push(self.told(names[names.len() - 1], file, line.to_string()));
                }
                let Some((_, caller)) = inlined else { break };
                place = caller;
            }
            return Some(found);
        }
        // Between two calls: all lines that may be meant.
        let lines = (first..=last)
            .filter_map(|place| self.position(function, self.outermost(function, place)?));
        let lines: Vec<(&str, u32)> = lines.collect();
        let (file, _) = *lines.first()?;
        if lines.iter().all(|(other, _)| *other == file) {
            let least = lines.iter().map(|(_, line)| *line).min()?;
            let most = lines.iter().map(|(_, line)| *line).max()?;
            let line = if least == most { least.to_string() } else { format!("{least} to {most}") };
            found.push(self.told(name, file, line));
        }
        Some(found)
    }
}

/// The first and the last place of Go's that an offset in a function's body may be: the same at a
/// call.
fn places_at(index: u32, body: &[u8], offset: u64) -> Option<(usize, usize)> {
    let operators = FunctionBody::new(BinaryReader::new(body, 0)).get_operators_reader().ok()?;
    let address = u64::from(FIRST.checked_add(index)?);
    // The last return address, and whether it is that of a call to come.
    let (mut before, mut pending) = (0, false);
    for operator in operators.into_iter_with_offsets() {
        let (operator, at) = operator.ok()?;
        match operator {
            Operator::I64Const { value } if value.cast_unsigned() >> 16 == address => {
                let place = (value & 0xffff) as usize;
                if at > offset {
                    return Some((before, place.saturating_sub(1).max(before)));
                }
                (before, pending) = (place, true);
            }
            Operator::Call { .. } | Operator::CallIndirect { .. } => {
                if at == offset && pending {
                    let place = before.saturating_sub(1);
                    return Some((place, place));
                }
                pending = false;
            }
            _ => {}
        }
    }
    Some((before, before))
}

/// A number of at most 32 bits, seven in each byte.
fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u32 = 0x2000;

    /// Two functions, `main.main` and `main.f`, in two files; in the second one `main.g`, of a
    /// third file, was inlined at place 2. Called were others at 1, 3 and 5.
    fn image() -> Vec<u8> {
        let mut image = vec![0; 24];
        let header = image.len();
        image.extend(MAGIC);
        // Filled in below: functions, files, nothing, and where the tables are.
        image.extend([0; 64]);
        let names = image.len();
        image.extend(b"main.main\0main.f\0main.g\0");
        let units = image.len();
        let files = b"gate/main.go\0gate/f.go\0fmt/g.go\0";
        for at in [0_u32, 13, 23] {
            image.extend(at.to_le_bytes());
        }
        let files_at = image.len();
        image.extend(files);
        let values = image.len();
        let mut table = |pairs: &[(i32, u32)]| {
            let at = image.len() - values;
            let mut before = -1_i32;
            for (value, places) in pairs {
                let delta = value - before;
                image.push(u8::try_from((delta << 1) ^ (delta >> 31)).unwrap());
                image.push(u8::try_from(*places).unwrap());
                before = *value;
            }
            image.push(0);
            u32::try_from(at).unwrap()
        };
        let _ = table(&[(0, 1)]);
        let main_file = table(&[(0, 9)]);
        let main_line = table(&[(3, 9)]);
        let f_file = table(&[(1, 2), (2, 1), (1, 9)]);
        let f_line = table(&[(10, 1), (11, 1), (50, 1), (13, 1), (12, 9)]);
        let f_inlined = table(&[(-1, 2), (0, 1), (-1, 9)]);
        image.resize(image.len().next_multiple_of(8), 0);
        let functions = image.len();
        image.extend([0; 24]);
        let mut record = |entry: usize, name: u32, file: u32, line: u32, more: &[u32]| {
            let at = image.len();
            let number = FIRST + u32::try_from(entry).unwrap();
            image[functions + 8 * entry..][..4].copy_from_slice(&number.to_le_bytes());
            let told = u32::try_from(at - functions).unwrap();
            image[functions + 8 * entry + 4..][..4].copy_from_slice(&told.to_le_bytes());
            let pcdata = if more.is_empty() { 0 } else { 3 };
            for word in [number, name, 0, 0, 0, file, line, pcdata, 0, 0] {
                image.extend(word.to_le_bytes());
            }
            image.extend([0, 0, 0, if more.is_empty() { 0 } else { 4 }]);
            more.iter().for_each(|word| image.extend(word.to_le_bytes()));
        };
        record(0, 0, main_file, main_line, &[]);
        record(1, 10, f_file, f_line, &[0, 0, f_inlined, 0, 0, 0, 0]);
        image.resize(image.len().next_multiple_of(8), 0);
        let gofunc = image.len();
        // `main.g`, called at place 1.
        for word in [0_u32, 17, 1, 0] {
            image.extend(word.to_le_bytes());
        }
        let module = image.len();
        image.extend([0; 8 * (GOFUNC + 1)]);
        let mut put = |at: usize, value: usize| {
            image[at..at + 8].copy_from_slice(&(value as u64).to_le_bytes());
        };
        for (n, value) in [2, 3, 0, names - header, units - header, files_at - header]
            .into_iter()
            .chain([values - header, functions - header])
            .enumerate()
        {
            put(header + 8 * (n + 1), value);
        }
        let start = START as usize;
        put(module, start + header);
        put(module + 8, start + names);
        put(module + 8 * GOFUNC, start + gofunc);
        image
    }

    /// The body of `main.f`: it calls at the places 1, 3 and 5, and traps.
    fn body() -> (Vec<u8>, Vec<u64>) {
        let call = |place: u32| {
            format!("(i64.store (i32.const 0) (i64.const {})) (call $f)", 0x1001 << 16 | place)
        };
        let calls = [2, 4, 6].map(call).join(" ");
        let module = format!("(module (memory 1) (func $f {calls} unreachable))");
        let module = wat::parse_str(module).unwrap();
        let range = wasmparser::Parser::new(0).parse_all(&module).find_map(|payload| {
            let Ok(wasmparser::Payload::CodeSectionEntry(body)) = payload else { return None };
            Some(body.range())
        });
        let range = range.unwrap();
        let body = module[range.start as usize..range.end as usize].to_vec();
        let operators = FunctionBody::new(BinaryReader::new(&body, 0)).get_operators_reader();
        let operators = operators.unwrap().into_iter_with_offsets().map(Result::unwrap);
        let calls = operators.filter(|(operator, _)| {
            matches!(operator, Operator::Call { .. } | Operator::Unreachable)
        });
        let offsets = calls.map(|(_, at)| at).collect();
        (body, offsets)
    }

    fn told(image: &[u8], offset: u64) -> Option<Vec<String>> {
        let (body, _) = body();
        let tables = Tables::read(&[(START, &image[..100]), (START + 100, &image[100..])])?;
        let places = tables.places(1, &body, u32::try_from(offset).unwrap())?;
        let told = places.into_iter().map(|place| {
            let foreign = if place.foreign { " foreign" } else { "" };
            format!("{} at {}{foreign}", place.function.unwrap(), place.line)
        });
        Some(told.collect())
    }

    #[test]
    fn calls_have_their_line_and_what_lies_between_has_lines() {
        let image = image();
        let (_, offsets) = body();
        let at = |n: usize| told(&image, offsets[n]).unwrap();
        assert_eq!(at(0), ["main.f at gate/f.go:11"]);
        assert_eq!(at(1), ["main.f at gate/f.go:13"]);
        assert_eq!(at(3), ["main.f at gate/f.go:12"]);
        // Between the first call and the second.
        assert_eq!(told(&image, offsets[0] + 1).unwrap(), ["main.f at gate/f.go:11 to 13"]);
    }

    #[test]
    fn what_was_inlined_is_told_with_who_called_it() {
        let image = image();
        let tables = Tables::read(&[(START, &image)]).unwrap();
        let function = tables.function(1).unwrap();
        assert_eq!(tables.inlined(function, 2), Ok(Some(("main.g", 1))));
        assert_eq!(tables.position(function, 2), Some(("fmt/g.go", 50)));
        assert_eq!(tables.outermost(function, 2), Some(1));
        assert_eq!(tables.home, "gate/");
    }

    #[test]
    fn broken_tables_do_no_harm() {
        let image = image();
        let (_, offsets) = body();
        for at in 0..image.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut broken = image.clone();
                broken[at] = value;
                for offset in &offsets {
                    let _ = told(&broken, *offset);
                }
            }
            let _ = told(&image[..at.max(100)], offsets[0]);
        }
    }
}
