//! A table that fits a terminal.

/// The first column shrinks until a line is no longer than this.
const WIDTH_MAX: usize = 100;
const GAP: &str = "  ";
const ELLIPSIS: char = '…';

/// A column's title, and on which side its cells end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    Left(&'static str),
    Right(&'static str),
}

/// The lines of a table: the titles, then the rows.
pub(super) fn lines<const N: usize>(columns: [Column; N], rows: &[[String; N]]) -> Vec<String> {
    let titles = columns.map(|column| match column {
        Column::Left(title) | Column::Right(title) => title.to_owned(),
    });
    let mut widths = titles.clone().map(|title| width(&title));
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = width(cell).max(*widest);
        }
    }
    let others: usize = widths.iter().skip(1).map(|width| GAP.len() + width).sum();
    if let Some(first) = widths.first_mut() {
        *first = (*first).min(WIDTH_MAX.saturating_sub(others));
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(columns).zip(widths);
        let cells = cells.map(|((cell, column), width)| {
            let cell = shortened(cell, width);
            match column {
                Column::Left(_) => format!("{cell:<width$}"),
                Column::Right(_) => format!("{cell:>width$}"),
            }
        });
        let cells: Vec<String> = cells.collect();
        cells.join(GAP).trim_end().to_owned()
    };
    std::iter::once(&titles).chain(rows).map(line).collect()
}

/// Both ends of a name tell more than its beginning: `orders-eu-…-7f9c`.
fn shortened(text: &str, width_max: usize) -> String {
    let length = width(text);
    if length <= width_max {
        return text.to_owned();
    }
    let kept = width_max.saturating_sub(1);
    let head = kept.div_ceil(2);
    let tail = kept - head;
    let begin = text.chars().take(head);
    let end = text.chars().skip(length - tail);
    begin.chain([ELLIPSIS]).chain(end).collect()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_the_first_gives_way() {
        let columns = [
            Column::Left("NAME"),
            Column::Right("N"),
            Column::Left("WORD"),
        ];
        let row = |name: &str, n: &str, word: &str| [name, n, word].map(str::to_owned);
        let short = [row("a", "1", "x"), row("bcdefg", "12345", "yz")];
        assert_eq!(
            lines(columns, &short),
            [
                "NAME        N  WORD",
                "a           1  x",
                "bcdefg  12345  yz"
            ]
        );
        let long = [row(&"0123456789".repeat(13), "1", "x")];
        let lines = lines(columns, &long);
        assert_eq!(width(&lines[0]), 100);
        assert!(lines[1].starts_with("0123456789"), "{}", lines[1]);
        assert!(
            lines[1].contains('…') && lines[1].contains("6789  1"),
            "{}",
            lines[1]
        );
    }

    #[test]
    fn what_is_shortened_keeps_both_ends() {
        assert_eq!(shortened("abcdef", 6), "abcdef");
        assert_eq!(shortened("abcdef", 5), "ab…ef");
        assert_eq!(shortened("abcdef", 4), "ab…f");
        assert_eq!(shortened("abcdef", 1), "…");
    }
}
