//! Aligned columns, as those of `ip -br` and `bridge`: two blanks between them, numbers to the
//! right, no lines drawn, nothing after the last letter of a row.

/// Which side a column keeps to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A table of text.
pub(super) struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; those whose heading begins with `>` keep to the right.
    pub(super) fn new(columns: &[&str]) -> Self {
        let side = |column: &&str| if column.starts_with('>') { Side::Right } else { Side::Left };
        let heading = |column: &&str| column.trim_start_matches('>').to_owned();
        Self {
            sides: columns.iter().map(side).collect(),
            rows: vec![columns.iter().map(heading).collect()],
        }
    }

    /// Adds a row; an empty cell shows as `-`.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let dash = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(dash).collect());
    }

    /// The table as text; nothing at all without rows.
    pub(super) fn render(&self) -> String {
        if self.rows.len() < 2 {
            return String::new();
        }
        let mut widths = vec![0; self.sides.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), side) in row.iter().zip(&widths).zip(&self.sides) {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                let gap = if line.is_empty() { "" } else { "  " };
                let (before, after) =
                    if *side == Side::Right { (&pad, "") } else { (&String::new(), pad.as_str()) };
                line.push_str(gap);
                line.push_str(before);
                line.push_str(cell);
                line.push_str(after);
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}
