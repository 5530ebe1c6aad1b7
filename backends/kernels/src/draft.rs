//! Launches as operators write them down: kernels in the kernel language, with the values that they touch.

use hetero_hal::{DType, Tensor, ValueId};

use crate::language::{Access, Number};

/// What a buffer of a launch is.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    /// A value of the program.
    Value(ValueId),
    /// Content known when compiling that is none of the program's: a table of offsets, folded weights.
    Table(Tensor),
    /// Memory that only the node's own launches use, by its number among [`Drafts::workspaces`].
    Workspace(usize),
}

/// A buffer of a launch.
#[derive(Clone, Debug)]
pub(crate) struct Argument {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) access: Access,
    pub(crate) operand: Operand,
    /// Elements.
    pub(crate) elements: usize,
}

impl Argument {
    /// Content that is known.
    pub(crate) fn holding(name: impl Into<String>, content: Tensor) -> Self {
        let (dtype, elements) = (content.dtype(), content.len());
        Argument { name: name.into(), dtype, access: Access::Read, operand: Operand::Table(content), elements }
    }
}

/// One launch.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// Family of the kernel, part of its name.
    pub(crate) family: &'static str,
    /// In the kernel language, with lines `#if FLAG`, `#else`, `#endif`, `#repeat CONSTANT i`, `#end`, and `#include NAME`.
    pub(crate) body: String,
    pub(crate) flags: Vec<&'static str>,
    pub(crate) constants: Vec<(&'static str, u32)>,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) numbers: Vec<(String, Number, u32)>,
    /// What `RESULT(index, value);` in the body becomes.
    pub(crate) result: Option<Store>,
    /// Work items of a group.
    pub(crate) items: u32,
    /// Work groups.
    pub(crate) groups: [u32; 3],
}

/// How a result is stored: what happens to it on the way, as statements on `v0` at the index `o`, and the name that it has then.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) statements: String,
    pub(crate) value: String,
}

/// What a node, or several that are one kernel, become.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drafts {
    pub(crate) launches: Vec<Draft>,
    /// Sizes in bytes.
    pub(crate) workspaces: Vec<usize>,
}

/// Largest number of elements that a kernel indexes: indexes are 32 bits wide, some of them signed, and a launch may have items beyond the end.
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

    /// A buffer that the kernel reads.
    pub(crate) fn read(self, name: impl Into<String>, dtype: DType, elements: usize, operand: Operand) -> Self {
        self.argument(Argument { name: name.into(), dtype, access: Access::Read, operand, elements })
    }

    /// A buffer that the kernel writes, and may read.
    pub(crate) fn write(self, name: impl Into<String>, dtype: DType, elements: usize, operand: Operand) -> Self {
        self.argument(Argument { name: name.into(), dtype, access: Access::Write, operand, elements })
    }

    /// Content that is known.
    pub(crate) fn holds(self, name: &str, content: &Tensor) -> Self {
        self.argument(Argument::holding(name, content.clone()))
    }

    /// A table of whole numbers.
    pub(crate) fn table(self, name: &str, numbers: Vec<i32>) -> Self {
        match Tensor::from_vec(&[numbers.len()], numbers) {
            Ok(tensor) => self.argument(Argument::holding(name, tensor)),
            // A list is as long as its shape says.
            Err(_) => self,
        }
    }

    /// A table of floats.
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

    /// One work item for each of `count`, in a line of groups of `items`; `LINEAR` is its number, and may be beyond the end.
    pub(crate) fn line(mut self, count: usize, items: u32, longest: u32) -> Self {
        let groups = count.div_ceil(items as usize).max(1);
        let rows = groups.div_ceil(longest as usize);
        self.items = items;
        self.groups = [groups.div_ceil(rows) as u32, rows as u32, 1];
        self
    }

    /// So many groups of so many items.
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

/// Texts that several bodies hold, for a line `#include NAME`.
const SHARED: &[(&str, &str)] = &[
    ("lane", include_str!("sources/lane.c")),
    ("position", include_str!("sources/position.c")),
    ("state", include_str!("sources/state.c")),
    ("tile", include_str!("sources/tile.c")),
    ("total", include_str!("sources/total.c")),
];

/// The body with what it includes.
fn included(body: &str) -> String {
    let of = |line: &str| {
        let name = line.trim_start().strip_prefix("#include ")?.trim();
        SHARED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    };
    body.lines().map(|line| of(line).map_or_else(|| format!("{line}\n"), str::to_owned)).collect()
}

/// The body with the lines between `#repeat COUNT i` and `#end` written so many times, `$i` being the number of the time. Blocks may hold blocks.
fn repeated(draft: &Draft) -> String {
    let body = included(&draft.body);
    /// A block that is open: how often, under which name, and its lines so far.
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

/// The body with its repetitions and conditions resolved and its results stored.
pub(crate) fn resolve(draft: &Draft) -> String {
    let body = repeated(draft);
    let mut text = String::with_capacity(body.len());
    // For each open condition: are its lines kept?
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
