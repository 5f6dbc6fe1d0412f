{
  # For tools that expect node-gyp: runs the same CMake build as `npm run build`, and nothing of its own.
  # Not in the published package: a lock file does not keep "gypfile": false, and `npm ci` would build wherever this file is.
  "targets": [
    {
      "target_name": "noema",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(PRODUCT_DIR)/noema.node"],
          "action": ["node", "scripts/setup.mjs", "--addon"]
        }
      ]
    }
  ]
}
