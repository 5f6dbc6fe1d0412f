/** What a TypeScript file of this repository imports. */

import { existsSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import ts from "typescript";
import { read, root } from "./files.js";

export interface Import {
  specifier: string;
  /** The file of this repository that it means; absent for packages. */
  file?: string;
  isType: boolean;
}

export function imports(path: string): Import[] {
  const found: Import[] = [];
  const add = (specifier: string, isType: boolean) => {
    const file = specifier.startsWith(".") ? fileOf(path, specifier) : undefined;
    found.push({ specifier, isType, ...(file && { file }) });
  };
  const visit = (node: ts.Node) => {
    if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier)) {
      add(node.moduleSpecifier.text, node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword);
    } else if (ts.isExportDeclaration(node) && node.moduleSpecifier && ts.isStringLiteral(node.moduleSpecifier)) {
      add(node.moduleSpecifier.text, node.isTypeOnly);
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const [specifier] = node.arguments;
      if (specifier && ts.isStringLiteral(specifier)) add(specifier.text, false);
    }
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(path, read(path), ts.ScriptTarget.Latest));
  return found;
}

function fileOf(from: string, specifier: string): string | undefined {
  const target = normalize(join(dirname(from), specifier));
  return [target.replace(/\.js$/, ".ts"), target].find((path) => existsSync(join(root, path)));
}

/** Each cycle of run-time imports, as "a -> b -> a". */
export function importCycles(paths: string[]): string[] {
  const graph = new Map(
    paths.map((path) => [path, imports(path).flatMap(({ file, isType }) => (file && !isType ? [file] : []))]),
  );
  const cycles: string[] = [];
  const done = new Set<string>();
  const walk = (path: string, trail: string[]) => {
    const start = trail.indexOf(path);
    if (start >= 0) {
      cycles.push([...trail.slice(start), path].join(" -> "));
      return;
    }
    if (done.has(path)) return;
    for (const next of graph.get(path) ?? []) walk(next, [...trail, path]);
    done.add(path);
  };
  for (const path of paths) walk(path, []);
  return cycles;
}
