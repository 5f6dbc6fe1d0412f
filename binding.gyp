{
  # For tools that expect node-gyp: runs the same CMake build as `npm run build`, and nothing of its own.
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
