//! Line tables (DWARF, or Go's own) of a component's core modules, to find the line of a place in
//! their code.
//!
//! Owns: reading them. Must not know: what a fault is, and whose lines are told of it. The tables
//! come from tenants, so what is read of them has bounds, and it is read once for a module, when it
//! is asked for. Read by `gimli` and `addr2line`, which wasmtime uses, too. Those trust what they
//! read: few bytes can stand for gigabytes of rows, ranges and paths, or nest deeper than a stack;
//! so a host has children of its own read (`weir_sandbox::read_lines_in_children`).

mod golang;

use std::cell::OnceCell;
use std::ops::Range;

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian, SectionId};
use wasmparser::{DataKind, KnownCustom, Name, Operator, Parser, Payload, TypeRef};

/// Bytes of a line program that are read: a byte can make a row.
const PROGRAM_MAX: usize = 4 << 20;
/// Bytes of a file's path that are told.
const FILE_MAX: usize = 1024;
/// Bytes of all debug sections of a module that are read.
const SECTIONS_MAX: usize = 32 << 20;

/// The core modules of a component, with their line tables.
#[derive(Default)]
pub struct Lines<'a>(Vec<Module<'a>>);

/// A core module.
#[derive(Default)]
struct Module<'a> {
    name: String,
    /// Functions that it imports: they come first in its numbering.
    imported: u32,
    /// Where the code section's content begins.
    code: u64,
    /// Bodies of its functions.
    bodies: Vec<Range<u64>>,
    sections: Vec<(&'a str, &'a [u8])>,
    /// Its tables, once they are asked for; none if there are none that can be read.
    tables: OnceCell<Option<Context<Slice<'a>>>>,
    /// Whether Go's own compiler made it; then its data, and the component that its bodies are in.
    is_go: bool,
    data: Vec<(u32, &'a [u8])>,
    component: &'a [u8],
    go: OnceCell<Option<golang::Tables>>,
}

/// A line, and the function that it is in if the tables name it.
#[derive(Debug)]
pub struct Line {
    /// The function's name, demangled.
    pub function: Option<String>,
    /// `file:line`, with `:column` where there is one.
    pub line: String,
    /// The language says that the file is not the author's.
    pub foreign: bool,
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;

impl<'a> Lines<'a> {
    /// The modules of a component; none if it cannot be read.
    #[must_use]
    pub fn of(component: &'a [u8]) -> Self {
        let mut modules: Vec<Module<'a>> = Vec::new();
        // Modules within modules there are none: the last one that began is the one that is read.
        for payload in Parser::new(0).parse_all(component) {
            let Ok(payload) = payload else { break };
            let Some(module) = modules.last_mut() else {
                if let Payload::ModuleSection { .. } = payload {
                    modules.push(Module { component, ..Module::default() });
                }
                continue;
            };
            match payload {
                Payload::ModuleSection { .. } => {
                    modules.push(Module { component, ..Module::default() });
                }
                Payload::ImportSection(imports) => {
                    let functions = imports.into_imports().flatten();
                    let functions = functions.filter(|import| {
                        matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_))
                    });
                    module.imported = u32::try_from(functions.count()).unwrap_or(u32::MAX);
                }
                Payload::CodeSectionStart { unchecked_range, .. } => {
                    module.code = unchecked_range.start;
                }
                Payload::CodeSectionEntry(body) => module.bodies.push(body.range()),
                Payload::CustomSection(custom) => {
                    if let KnownCustom::Name(names) = custom.as_known() {
                        let mut names = names.into_iter().flatten();
                        let name = names.find_map(|name| match name {
                            Name::Module { name, .. } => Some(name.to_owned()),
                            _ => None,
                        });
                        // A component has such a section, too, which is none of a module's.
                        module.name = name.unwrap_or_default();
                    } else if custom.name() == "go:buildid" {
                        module.is_go = true;
                    } else if custom.name().starts_with(".debug_") {
                        module.sections.push((custom.name(), custom.data()));
                    }
                }
                Payload::DataSection(data) if module.is_go => {
                    let active = data.into_iter().flatten().filter_map(|data| {
                        let DataKind::Active { offset_expr, .. } = data.kind else { return None };
                        match offset_expr.get_operators_reader().read() {
                            Ok(Operator::I32Const { value }) => {
                                Some((value.cast_unsigned(), data.data))
                            }
                            _ => None,
                        }
                    });
                    module.data = active.collect();
                }
                _ => {}
            }
        }
        Self(modules)
    }

    /// Whether there are no modules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a module of this name.
    #[must_use]
    pub fn has(&self, module: &str) -> bool {
        self.0.iter().any(|known| known.name == module)
    }

    /// The lines of a place in each module, whatever its name.
    #[must_use]
    pub fn of_place_anywhere(&self, function: u32, offset: u32) -> Vec<Line> {
        self.0.iter().filter_map(|module| module.lines(function, offset)).flatten().collect()
    }

    /// The lines of a place: the innermost function that was inlined there first.
    #[must_use]
    pub fn of_place(&self, module: &str, function: u32, offset: u32) -> Vec<Line> {
        let modules = self.0.iter().filter(|known| known.name == module);
        modules.filter_map(|known| known.lines(function, offset)).next().unwrap_or_default()
    }
}

impl<'a> Module<'a> {
    fn lines(&self, function: u32, offset: u32) -> Option<Vec<Line>> {
        let own = function.checked_sub(self.imported)?;
        let body = self.bodies.get(own as usize)?;
        if self.is_go {
            let tables = self.go.get_or_init(|| golang::Tables::read(&self.data)).as_ref()?;
            let (start, end) = (usize::try_from(body.start).ok()?, usize::try_from(body.end).ok()?);
            return tables.places(own, self.component.get(start..end)?, offset);
        }
        let at = body.start.checked_add(u64::from(offset)).filter(|at| body.contains(at))?;
        let tables = self.tables.get_or_init(|| self.read_tables()).as_ref()?;
        // Addresses are relative to the code section.
        let mut frames = tables.find_frames(at.checked_sub(self.code)?).skip_all_loads().ok()?;
        let mut places = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            let Some(location) = frame.location else { continue };
            let (Some(file), Some(line)) = (location.file, location.line) else { continue };
            let name = frame.function.as_ref().and_then(|name| name.raw_name().ok());
            let function = name.map(|name| format!("{:#}", rustc_demangle::demangle(&name)));
            let line = told(file, line, location.column);
            places.push(Line { function, line, foreign: false });
        }
        if places.is_empty() {
            // A trap before a function's first line, as of one that has no stack left: its first
            // line.
            let (start, end) =
                (body.start.checked_sub(self.code)?, body.end.checked_sub(self.code)?);
            let (_, _, first) = tables.find_location_range(start, end).ok()?.next()?;
            let line = told(first.file?, first.line?, first.column);
            places.push(Line { function: None, line, foreign: false });
        }
        Some(places)
    }

    fn read_tables(&self) -> Option<Context<Slice<'a>>> {
        let program = self.section(".debug_line").len();
        let all: usize = self.sections.iter().map(|(_, bytes)| bytes.len()).sum();
        if program == 0 || program > PROGRAM_MAX || all > SECTIONS_MAX {
            return None;
        }
        let load = |id: SectionId| -> Result<Slice<'a>, addr2line::gimli::Error> {
            Ok(EndianSlice::new(self.section(id.name()), LittleEndian))
        };
        Context::from_dwarf(Dwarf::load(load).ok()?).ok()
    }

    fn section(&self, name: &str) -> &'a [u8] {
        let found = self.sections.iter().find(|(known, _)| *known == name);
        found.map_or(&[], |(_, bytes)| bytes)
    }
}

fn told(file: &str, line: u32, column: Option<u32>) -> String {
    // Its end says most.
    let file = &file[file.ceil_char_boundary(file.len().saturating_sub(FILE_MAX))..];
    let column = column.map_or_else(String::new, |column| format!(":{column}"));
    format!("{file}:{line}{column}")
}
