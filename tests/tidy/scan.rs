//! Reads a source file as tokens: which paths it names, and how long it is.
//! Comments and strings name nothing.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};

/// A path as written, resolved where it begins with crate, self or super.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) line: usize,
    /// The segments. Ours begin with `crate`.
    pub(crate) path: Vec<String>,
    /// Whether it can name a crate: it has several segments or stands in `use`.
    pub(crate) rooted: bool,
    /// Whether it stands in `#[cfg(test)]` code.
    pub(crate) in_test: bool,
}

/// What one file says.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) named: Vec<Named>,
    /// Lines that hold code outside `#[cfg(test)]`.
    pub(crate) code_lines: BTreeSet<usize>,
    /// Lines that hold code inside `#[cfg(test)]`.
    pub(crate) test_lines: BTreeSet<usize>,
    /// Modules declared as `#[cfg(test)] mod name;`.
    pub(crate) test_modules: Vec<Vec<String>>,
}

impl Scan {
    /// Scans the source of `module` (its path below the crate).
    pub(crate) fn new(source: &str, module: &[String], in_test: bool) -> Result<Self, String> {
        let tokens: TokenStream = source.parse().map_err(|e| format!("{e}"))?;
        let mut scan = Self::default();
        scan.walk(tokens, module, in_test);
        Ok(scan)
    }

    fn walk(&mut self, tokens: TokenStream, module: &[String], outer_test: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut outer_test = outer_test;
        // Whether the item that begins here is under #[cfg(test)].
        let mut item_test = false;
        let mut after_use = false;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let test = outer_test || item_test;
            match token {
                TokenTree::Punct(p) if p.as_char() == '#' => {
                    let inner = is_punct(tokens.get(at + 1), '!');
                    let Some(TokenTree::Group(attribute)) = tokens.get(at + 1 + usize::from(inner))
                    else {
                        at += 1;
                        continue;
                    };
                    at += 2 + usize::from(inner);
                    let text = attribute.stream().to_string().replace(' ', "");
                    if text.starts_with("doc") {
                        continue;
                    }
                    if text == "cfg(test)" {
                        outer_test |= inner;
                        item_test |= !inner;
                    }
                    let test = outer_test || item_test;
                    self.count(attribute.span(), test);
                    self.walk(attribute.stream(), module, test);
                    continue;
                }
                TokenTree::Ident(ident) if ident == "mod" => {
                    self.count(ident.span(), test);
                    if let (Some(TokenTree::Ident(name)), Some(body)) =
                        (tokens.get(at + 1), tokens.get(at + 2))
                    {
                        let inner = [module, &[name.to_string()]].concat();
                        match body {
                            TokenTree::Group(body) => self.walk_group(body, &inner, test),
                            _ if test => self.test_modules.push(inner),
                            _ => {}
                        }
                        at += 2;
                        item_test = false;
                    }
                }
                TokenTree::Ident(ident) => {
                    let used = after_use;
                    let after_extern = at.checked_sub(1).map(|before| &tokens[before]);
                    let after_extern = after_extern.is_some_and(|t| t.to_string() == "extern");
                    after_use = ident == "use" || (ident == "crate" && after_extern);
                    at = self.path(&tokens, at, &[], module, used, test);
                    continue;
                }
                TokenTree::Group(group) => {
                    if after_use {
                        self.tree(group, &[], module, test);
                    } else {
                        self.walk_group(group, module, test);
                    }
                    after_use = false;
                    item_test &= group.delimiter() != Delimiter::Brace;
                }
                TokenTree::Punct(p) => {
                    self.count(p.span(), test);
                    item_test &= p.as_char() != ';';
                }
                TokenTree::Literal(literal) => self.count(literal.span(), test),
            }
            at += 1;
        }
    }

    fn walk_group(&mut self, group: &Group, module: &[String], test: bool) {
        self.count(group.span_open(), test);
        self.count(group.span_close(), test);
        self.walk(group.stream(), module, test);
    }

    /// Records the path that begins at `at`, and returns where it ends.
    fn path(
        &mut self,
        tokens: &[TokenTree],
        at: usize,
        prefix: &[String],
        module: &[String],
        rooted: bool,
        test: bool,
    ) -> usize {
        let start = at;
        let mut at = at;
        let mut path = prefix.to_vec();
        let line = tokens[at].span().start().line;
        loop {
            match tokens.get(at) {
                Some(TokenTree::Ident(ident)) => {
                    path.push(ident.to_string());
                    self.count(ident.span(), test);
                }
                Some(TokenTree::Punct(p)) if p.as_char() == '*' => path.push("*".into()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    self.tree(group, &path, module, test);
                    return at + 1;
                }
                _ => break,
            }
            at += 1;
            if !(is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')) {
                break;
            }
            at += 2;
        }
        if path.is_empty() {
            return at.max(start + 1);
        }
        let rooted = rooted || path.len() > 1;
        self.named.push(Named {
            line,
            path: resolve(path, module),
            rooted,
            in_test: test,
        });
        at
    }

    /// Records what a braced use tree names.
    fn tree(&mut self, group: &Group, prefix: &[String], module: &[String], test: bool) {
        self.count(group.span_open(), test);
        self.count(group.span_close(), test);
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Ident(ident) if ident == "as" => at += 2,
                TokenTree::Ident(_) | TokenTree::Group(_) => {
                    at = self.path(&tokens, at, prefix, module, true, test);
                }
                TokenTree::Punct(p) if p.as_char() == '*' => {
                    at = self.path(&tokens, at, prefix, module, true, test);
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }

    fn count(&mut self, span: Span, test: bool) {
        let lines = if test {
            &mut self.test_lines
        } else {
            &mut self.code_lines
        };
        lines.extend(span.start().line..=span.end().line);
    }
}

fn is_punct(token: Option<&TokenTree>, char: char) -> bool {
    matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == char)
}

/// Turns self:: and super:: into crate::, and our own crate's name too.
fn resolve(path: Vec<String>, module: &[String]) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = &path[..];
    match path[0].as_str() {
        "watchmark" if path.len() > 1 => base.clear(),
        "self" if path.len() > 1 => {}
        "super" => {}
        _ => return path,
    }
    rest = match rest[0].as_str() {
        "self" | "watchmark" => &rest[1..],
        _ => rest,
    };
    while rest.first().is_some_and(|s| s == "super") {
        base.pop();
        rest = &rest[1..];
    }
    [&["crate".to_owned()], &base[..], rest].concat()
}
