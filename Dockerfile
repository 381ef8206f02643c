# untested here: no container runtime. The steps of README for a ROS 2 workspace, on Kilted.
FROM ros:kilted-ros-base
SHELL ["/bin/bash", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /workspace
COPY requirements src/sigma_ros/requirements
RUN python3 -m venv --system-site-packages .venv && . .venv/bin/activate && \
    pip install --no-cache-dir -r src/sigma_ros/requirements/ros-workspace.txt -c src/sigma_ros/requirements/lock.txt
COPY CMakeLists.txt package.xml pyproject.toml LICENSE src/sigma_ros/
COPY config src/sigma_ros/config
COPY launch src/sigma_ros/launch
COPY msg src/sigma_ros/msg
COPY scripts src/sigma_ros/scripts
COPY sigma_ros src/sigma_ros/sigma_ros
COPY training src/sigma_ros/training
RUN apt-get update && . /opt/ros/kilted/setup.bash && rosdep update && \
    rosdep install --from-paths src --ignore-src -y && rm -rf /var/lib/apt/lists/*
RUN . .venv/bin/activate && . /opt/ros/kilted/setup.bash && colcon build
# Two raw cameras need more shared memory than a container has: docker run --shm-size=256m --network=host
CMD ["bash", "-c", ". install/setup.bash && ros2 launch sigma_ros policy.launch.py"]
