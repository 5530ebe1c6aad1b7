//! Launches as operators write them down: kernels in the kernel language, with the values that they
//! touch.

use hetero_hal::{DType, Tensor, ValueId};

use crate::language::{Access, Number};

/// The content of a launch's buffer.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    /// A value of the program.
    Value(ValueId),
    /// Content that is known when compiling and is not the program's, such as a table of offsets or
    /// folded weights.
    Table(Tensor),
    /// Memory that only the node's own launches use, by its index in [`Drafts::workspaces`].
    Workspace(usize),
    /// The word in which kernels say that a node cannot be computed.
    Fault,
}

/// A buffer of a launch.
#[derive(Clone, Debug)]
pub(crate) struct Argument {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) access: Access,
    pub(crate) operand: Operand,
    /// The number of elements.
    pub(crate) elements: usize,
}

impl Argument {
    /// Makes an argument whose content is known.
    pub(crate) fn holding(name: impl Into<String>, content: Tensor) -> Self {
        let (dtype, elements) = (content.dtype(), content.len());
        Argument { name: name.into(), dtype, access: Access::Read, operand: Operand::Table(content), elements }
    }
}

/// One launch, as an operator writes it down.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// The family of the kernel, which is part of its name.
    pub(crate) family: &'static str,
    /// The body in the kernel language, with lines `#if FLAG`, `#else`, `#endif`,
    /// `#repeat CONSTANT i`, `#end`, and `#include NAME`.
    pub(crate) body: String,
    pub(crate) flags: Vec<&'static str>,
    pub(crate) constants: Vec<(&'static str, u32)>,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) numbers: Vec<(String, Number, u32)>,
    /// What is wrong where the kernel stores its number [`FAULT`] in its buffer `fault`.
    pub(crate) fault: Option<String>,
    /// The code that `RESULT(index, value);` in the body becomes.
    pub(crate) result: Option<Store>,
    /// The work items of a group.
    pub(crate) items: u32,
    /// The number of work groups along each axis.
    pub(crate) groups: [u32; 3],
}

/// How a result is stored: statements that change `v0` at the index `o` on the way, and the name of
/// the changed value.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) statements: String,
    pub(crate) value: String,
}

/// The name of the number that a kernel stores as its fault; lowering gives each launch its own.
pub(crate) const FAULT: &str = "fault_number";

/// The launches of a node, or of several nodes that are one kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drafts {
    pub(crate) launches: Vec<Draft>,
    /// The sizes of the workspaces, in bytes.
    pub(crate) workspaces: Vec<usize>,
}

/// The largest number of elements that a kernel indexes.
/// Indexes are 32 bits wide, some of them signed, and a launch may have items beyond the end.
pub(crate) const MOST_ELEMENTS: usize = (1 << 31) - 1024;

impl Draft {
    pub(crate) fn new(family: &'static str, body: impl Into<String>) -> Self {
        Draft {
            family,
            body: body.into(),
            flags: vec![],
            constants: vec![],
            arguments: vec![],
            numbers: vec![],
            fault: None,
            result: None,
            items: 1,
            groups: [1, 1, 1],
        }
    }

    pub(crate) fn flag(mut self, name: &'static str, set: bool) -> Self {
        if set {
            self.flags.push(name);
        }
        self
    }

    pub(crate) fn constant(mut self, name: &'static str, value: usize) -> Self {
        self.constants.push((name, value as u32));
        self
    }

    pub(crate) fn number(mut self, name: impl Into<String>, value: usize) -> Self {
        self.numbers.push((name.into(), Number::Uint, value as u32));
        self
    }

    pub(crate) fn signed(mut self, name: impl Into<String>, value: i64) -> Self {
        self.numbers.push((name.into(), Number::Int, value as i32 as u32));
        self
    }

    pub(crate) fn float(mut self, name: impl Into<String>, value: f32) -> Self {
        self.numbers.push((name.into(), Number::Float, value.to_bits()));
        self
    }

    /// Adds a buffer that the kernel reads.
    pub(crate) fn read(self, name: impl Into<String>, dtype: DType, elements: usize, operand: Operand) -> Self {
        self.argument(Argument { name: name.into(), dtype, access: Access::Read, operand, elements })
    }

    /// Adds a buffer that the kernel writes, and may read.
    pub(crate) fn write(self, name: impl Into<String>, dtype: DType, elements: usize, operand: Operand) -> Self {
        self.argument(Argument { name: name.into(), dtype, access: Access::Write, operand, elements })
    }

    /// Adds a buffer whose content is known.
    pub(crate) fn holds(self, name: &str, content: &Tensor) -> Self {
        self.argument(Argument::holding(name, content.clone()))
    }

    /// Adds the word in which the kernel says that its node cannot be computed, and why that is.
    pub(crate) fn faults(mut self, what: String) -> Self {
        self.fault = Some(what);
        self.number(FAULT, 0).write("fault", DType::U32, 1, Operand::Fault)
    }

    /// Adds a table of whole numbers.
    pub(crate) fn table(self, name: &str, numbers: Vec<i32>) -> Self {
        match Tensor::from_vec(&[numbers.len()], numbers) {
            Ok(tensor) => self.argument(Argument::holding(name, tensor)),
            // This cannot happen: a list is as long as its shape says.
            Err(_) => self,
        }
    }

    /// Adds a table of floats.
    pub(crate) fn floats(self, name: &str, numbers: Vec<f32>) -> Self {
        match Tensor::from_vec(&[numbers.len()], numbers) {
            Ok(tensor) => self.argument(Argument::holding(name, tensor)),
            Err(_) => self,
        }
    }

    pub(crate) fn argument(mut self, argument: Argument) -> Self {
        self.arguments.push(argument);
        self
    }

    /// Gives each of `count` elements one work item, in a line of groups of `items`.
    /// `LINEAR` is the work item's number, which may be beyond the end.
    pub(crate) fn line(mut self, count: usize, items: u32, longest: u32) -> Self {
        let groups = count.div_ceil(items as usize).max(1);
        let rows = groups.div_ceil(longest as usize);
        self.items = items;
        self.groups = [groups.div_ceil(rows) as u32, rows as u32, 1];
        self
    }

    /// Launches the given number of groups along each axis, with the given number of items in each
    /// group.
    pub(crate) fn grid(mut self, groups: [usize; 3], items: usize) -> Self {
        self.items = items as u32;
        self.groups = groups.map(|count| count as u32);
        self
    }
}

impl Drafts {
    pub(crate) fn of(draft: Draft) -> Self {
        Drafts { launches: vec![draft], workspaces: vec![] }
    }

    pub(crate) fn workspace(&mut self, bytes: usize) -> Operand {
        self.workspaces.push(bytes);
        Operand::Workspace(self.workspaces.len() - 1)
    }
}

/// Texts that several bodies share, by the NAME of a line `#include NAME`.
const SHARED: &[(&str, &str)] = &[
    ("lane", include_str!("sources/lane.c")),
    ("position", include_str!("sources/position.c")),
    ("state", include_str!("sources/state.c")),
    ("tile", include_str!("sources/tile.c")),
    ("total", include_str!("sources/total.c")),
];

/// Returns the body with its includes filled in.
fn included(body: &str) -> String {
    let of = |line: &str| {
        let name = line.trim_start().strip_prefix("#include ")?.trim();
        SHARED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    };
    body.lines().map(|line| of(line).map_or_else(|| format!("{line}\n"), str::to_owned)).collect()
}

/// Returns the body with the lines between `#repeat COUNT i` and `#end` repeated, where `$i` is the
/// number of the repetition.
/// Blocks may hold blocks.
fn repeated(draft: &Draft) -> String {
    let body = included(&draft.body);
    /// An open block: its number of repetitions, the name of its counter, and its lines so far.
    struct Block<'a> {
        count: u32,
        name: &'a str,
        lines: String,
    }
    let mut open = vec![Block { count: 1, name: "", lines: String::with_capacity(body.len()) }];
    for line in body.lines() {
        let trimmed = line.trim_start();
        if let Some(head) = trimmed.strip_prefix("#repeat ") {
            let (constant, name) = head.trim().split_once(' ').unwrap_or((head, ""));
            let count = draft.constants.iter().find(|(known, _)| *known == constant).map_or(1, |(_, count)| *count);
            open.push(Block { count, name, lines: String::new() });
        } else if trimmed == "#end" {
            if open.len() > 1
                && let (Some(block), Some(outer)) = (open.pop(), open.last_mut())
            {
                let variable = format!("${}", block.name);
                (0..block.count).for_each(|number| outer.lines += &block.lines.replace(&variable, &number.to_string()));
            }
        } else if let Some(block) = open.last_mut() {
            block.lines.push_str(line);
            block.lines.push('\n');
        }
    }
    open.into_iter().next().map(|block| block.lines).unwrap_or_default()
}

/// Returns the body with its repetitions and conditions resolved and its results stored.
pub(crate) fn resolve(draft: &Draft) -> String {
    let body = repeated(draft);
    let mut text = String::with_capacity(body.len());
    // For each open condition, whether its lines are kept.
    let mut kept: Vec<bool> = Vec::new();
    for line in body.lines() {
        let trimmed = line.trim_start();
        if let Some(flag) = trimmed.strip_prefix("#if ") {
            let (name, wanted) = flag.trim().strip_prefix('!').map_or((flag.trim(), true), |name| (name, false));
            kept.push(draft.flags.contains(&name) == wanted);
        } else if trimmed.starts_with("#else") {
            if let Some(last) = kept.last_mut() {
                *last = !*last;
            }
        } else if trimmed.starts_with("#endif") {
            kept.pop();
        } else if kept.iter().all(|&kept| kept) {
            match (trimmed.strip_prefix("RESULT(").and_then(|rest| rest.strip_suffix(");")), &draft.result) {
                (Some(arguments), Some(store)) => {
                    // The index comes first and has no comma outside of parentheses.
                    let mut depth = 0;
                    let comma = arguments.find(|c| {
                        depth += i32::from(c == '(') - i32::from(c == ')');
                        c == ',' && depth == 0
                    });
                    let (index, value) = arguments.split_at(comma.unwrap_or(0));
                    let value = value.trim_start_matches(',');
                    text += &format!(
                        "{{\nconst uint o = {index};\nconst float v0 = {value};\n{}STORE(y, o, {});\n}}\n",
                        store.statements, store.value
                    );
                }
                _ => {
                    text += line;
                    text.push('\n');
                }
            }
        }
    }
    text
}
